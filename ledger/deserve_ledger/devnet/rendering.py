"""Blocks, transactions and receipts as JSON-RPC shows them (Ethereum execution-apis)."""

from __future__ import annotations

from typing import Any

import rlp
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from deserve_ledger.devnet.chain import Block

__all__ = ["data", "quantity", "render_block", "render_logs", "render_receipt", "render_transaction"]

_DYNAMIC_FEE = 2
Json = dict[str, Any]


def quantity(value: int) -> str:
    return hex(value)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def render_block(block: Block, full: bool) -> Json:
    header = block.header
    return {
        "number": quantity(block.number),
        "hash": data(block.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "stateRoot": data(header.state_root),
        "miner": to_checksum_address(header.coinbase),
        "difficulty": quantity(header.difficulty),
        "mixHash": data(header.mix_hash),
        "extraData": data(header.extra_data),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "size": quantity(sum(map(len, block.raw)) + len(rlp.encode(header))),
        "transactions": [
            render_transaction(one, block, index) if full else data(one.hash)
            for index, one in enumerate(block.transactions)
        ],
        "uncles": [],
        "withdrawals": [],
    }


def render_transaction(transaction: Any, block: Block | None, index: int) -> Json:
    """`block` is None for one that waits."""
    kind = getattr(transaction, "type_id", 0)
    parity = transaction.y_parity if kind else transaction.v
    shown: Json = {
        "type": quantity(kind),
        "hash": data(transaction.hash),
        "nonce": quantity(transaction.nonce),
        "blockHash": None if block is None else data(block.hash),
        "blockNumber": None if block is None else quantity(block.number),
        "transactionIndex": None if block is None else quantity(index),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "input": data(transaction.data),
        "gasPrice": quantity(_price_wei(transaction, block)),
        "v": quantity(parity),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
    }
    if kind:
        shown |= {"chainId": quantity(transaction.chain_id), "yParity": quantity(parity), "accessList": []}
    if kind == _DYNAMIC_FEE:
        shown |= {
            "maxFeePerGas": quantity(transaction.max_fee_per_gas),
            "maxPriorityFeePerGas": quantity(transaction.max_priority_fee_per_gas),
        }
    return shown


def _price_wei(transaction: Any, block: Block | None) -> int:
    """What a gas cost, or for one that waits may cost at most."""
    if getattr(transaction, "type_id", 0) != _DYNAMIC_FEE:
        return int(transaction.gas_price)
    if block is None:
        return int(transaction.max_fee_per_gas)
    base = block.header.base_fee_per_gas
    return min(int(transaction.max_fee_per_gas), int(transaction.max_priority_fee_per_gas) + int(base))


def render_receipt(block: Block, index: int) -> Json:
    transaction, receipt = block.transactions[index], block.receipts[index]
    before = block.receipts[index - 1].gas_used if index else 0
    created = None
    if not transaction.to:
        made = keccak(rlp.encode([bytes(transaction.sender), transaction.nonce]))[12:]
        created = to_checksum_address(made)
    return {
        "transactionHash": data(transaction.hash),
        "transactionIndex": quantity(index),
        "blockHash": data(block.hash),
        "blockNumber": quantity(block.number),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "cumulativeGasUsed": quantity(receipt.gas_used),
        "gasUsed": quantity(receipt.gas_used - before),
        "effectiveGasPrice": quantity(_price_wei(transaction, block)),
        "contractAddress": created,
        "logs": [log for log in render_logs(block) if log["transactionIndex"] == quantity(index)],
        "logsBloom": data(receipt.bloom.to_bytes(256, "big")),
        "status": quantity(int.from_bytes(receipt.state_root, "big")),
        "type": quantity(getattr(transaction, "type_id", 0)),
    }


def render_logs(block: Block) -> list[Json]:
    """All logs of a block, numbered through it."""
    logs = (
        (transaction, index, log)
        for index, (transaction, receipt) in enumerate(zip(block.transactions, block.receipts, strict=True))
        for log in receipt.logs
    )
    return [
        {
            "address": to_checksum_address(log.address),
            "topics": [data(topic.to_bytes(32, "big")) for topic in log.topics],
            "data": data(log.data),
            "blockNumber": quantity(block.number),
            "blockHash": data(block.hash),
            "transactionHash": data(transaction.hash),
            "transactionIndex": quantity(index),
            "logIndex": quantity(number),
            "removed": False,
        }
        for number, (transaction, index, log) in enumerate(logs)
    ]
