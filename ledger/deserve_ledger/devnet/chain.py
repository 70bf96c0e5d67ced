"""The chain itself: py-evm's virtual machine, and the blocks that it has made. No disk, no clock, no sockets.

Blocks follow from the genesis time and from what `mine` is given, so the same calls make the same hashes. Blocks may
share a timestamp (hardhat's `allowBlocksWithSameTimestamp`): with a block a transaction, a busy chain would otherwise
run ahead of the clock, and every deadline with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import BLANK_ROOT_HASH, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert
from eth.vm.forks.cancun import CancunVM
from eth.vm.spoof import SpoofTransaction
from eth_utils.exceptions import ValidationError

from deserve_ledger.devnet.accounts import ACCOUNTS, FUNDS_WEI, development_account

__all__ = ["GAS_LIMIT", "Block", "Chain", "Message", "Reverted", "Unknown", "Unminable"]

# py-evm raises it to 12,000 for good when it is imported: so deep that json's decoder overflows the C stack over what a
# stranger sends before Python notices. The ledger's calls need a tenth.
sys.setrecursionlimit(1_000)

GAS_LIMIT = 30_000_000


class Reverted(Exception):
    """A message call failed; `data` is what the contract said, as in Solidity's ABI."""

    def __init__(self, data: bytes, reason: str) -> None:
        super().__init__(reason)
        self.data = data


class Unminable(Exception):
    """A transaction that no block can hold."""


class Unknown(Exception):
    """No such block."""


@dataclass(frozen=True, slots=True)
class Message:
    """What `eth_call` and `eth_estimateGas` execute. An empty `to` creates a contract."""

    sender: bytes = bytes(20)
    to: bytes = b""
    data: bytes = b""
    value_wei: int = 0
    gas: int = GAS_LIMIT


@dataclass(frozen=True, slots=True)
class Block:
    header: Any
    transactions: tuple[Any, ...] = ()
    raw: tuple[bytes, ...] = ()
    receipts: tuple[Any, ...] = ()

    @property
    def number(self) -> int:
        return int(self.header.block_number)

    @property
    def hash(self) -> bytes:
        return bytes(self.header.hash)

    @property
    def time_s(self) -> int:
        return int(self.header.timestamp)


@dataclass(slots=True)
class Chain:
    chain_id: int
    genesis_time_s: int
    blocks: list[Block] = field(init=False)
    _evm: Any = field(init=False)
    _numbers: dict[bytes, int] = field(init=False, default_factory=dict)
    _places: dict[bytes, tuple[int, int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        configuration = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, CancunVM),))
        evm = type("DevelopmentChain", (MiningChain,), {"chain_id": self.chain_id, "vm_configuration": configuration})
        genesis = {
            "coinbase": bytes(20),
            "difficulty": 0,
            "extra_data": b"",
            "gas_limit": GAS_LIMIT,
            "mix_hash": bytes(32),
            "nonce": POST_MERGE_NONCE,
            "receipt_root": BLANK_ROOT_HASH,
            "timestamp": self.genesis_time_s,
            "transaction_root": BLANK_ROOT_HASH,
        }
        funds = {"balance": FUNDS_WEI, "nonce": 0, "code": b"", "storage": {}}
        state = {bytes.fromhex(development_account(i).address[2:]): funds for i in range(ACCOUNTS)}
        self._evm = evm.from_genesis(AtomicDB(), genesis, state)  # type: ignore[attr-defined]
        first = Block(self._evm.get_canonical_head())
        self.blocks = [first]
        self._numbers[first.hash] = 0

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def decode(self, raw: bytes) -> Any:
        """The transaction in the bytes `raw`. Raises `Unminable`."""
        try:
            transaction = CancunVM.get_transaction_builder().decode(raw)
            transaction.check_signature_validity()
        except Exception as error:  # rlp, eth_keys and py-evm each have errors of their own
            raise Unminable(f"no transaction: {error}") from error
        if getattr(transaction, "chain_id", self.chain_id) not in (self.chain_id, None):
            raise Unminable(f"invalid chain id for signer: have {transaction.chain_id} want {self.chain_id}")
        return transaction

    def mine(self, raw: Sequence[bytes], time_s: int, mix_hash: bytes) -> Block:
        """Append a block of these transactions. Raises `Unminable`, and then nothing has changed."""
        transactions = tuple(map(self.decode, raw))
        machine = self._machine(self.head, time_s, mix_hash=mix_hash)
        empty = machine.get_block()
        try:
            header, receipts, _ = machine.apply_all_transactions(transactions, empty.header)
        except ValidationError as error:
            raise Unminable(str(error)) from error
        filled = machine.set_block_transactions_and_withdrawals(empty, header, transactions, receipts)
        # Not by way of py-evm's own chain: that wants later times, executes in a time that it makes up itself, and
        # decides which branch counts.
        made = machine.finalize_block(filled).block
        self._evm.chaindb.persist_block(made)
        block = Block(made.header, transactions, tuple(raw), tuple(receipts))
        self.blocks.append(block)
        self._numbers[block.hash] = block.number
        self._places.update((bytes(one.hash), (block.number, i)) for i, one in enumerate(transactions))
        return block

    def revert_to(self, number: int) -> None:
        """Forget the blocks above `number`, as a reorganisation does."""
        for block in self.blocks[number + 1 :]:
            del self._numbers[block.hash]
            for transaction in block.transactions:
                self._places.pop(bytes(transaction.hash), None)
        del self.blocks[number + 1 :]

    def block(self, number: int) -> Block:
        """Raises `Unknown`."""
        if not 0 <= number < len(self.blocks):
            raise Unknown(f"no block {number}")
        return self.blocks[number]

    def number_of(self, block_hash: bytes) -> int | None:
        return self._numbers.get(block_hash)

    def find(self, transaction_hash: bytes) -> tuple[Block, int] | None:
        """The block of a transaction and its index there."""
        place = self._places.get(transaction_hash)
        return None if place is None else (self.blocks[place[0]], place[1])

    def state(self, number: int) -> Any:
        """py-evm's state after block `number`. Raises `Unknown`."""
        return self._evm.get_vm(self.block(number).header).state

    def next_base_fee_wei(self) -> int:
        return int(self._evm.create_header_from_parent(self.head.header).base_fee_per_gas)

    def call(self, message: Message, number: int, time_s: int) -> bytes:
        """What the message returns on top of block `number` at `time_s`. Raises `Reverted` and `Unknown`."""
        computation = self._execute(message, number, time_s, message.gas)
        if computation.is_error:
            raise _reverted(computation)
        return bytes(computation.output)

    def estimate_gas(self, message: Message, number: int, time_s: int) -> int:
        """A limit with which the message succeeds, at most a quarter above the least. Raises `Reverted`."""
        computation = self._execute(message, number, time_s, message.gas)
        if computation.is_error:
            raise _reverted(computation)
        # Before refunds, which come after the gas was needed; a call within the call leaves a 64th behind (EIP-150).
        limit = message.gas - int(computation.get_gas_remaining())
        while limit < message.gas and self._execute(message, number, time_s, limit).is_error:
            limit = min(limit * 5 // 4, message.gas)
        return limit

    def _execute(self, message: Message, number: int, time_s: int, gas: int) -> Any:
        machine = self._machine(self.block(number), time_s, base_fee_per_gas=0)
        unsigned = machine.create_unsigned_transaction(
            nonce=machine.state.get_nonce(message.sender),
            gas_price=0,
            gas=gas,
            to=message.to,
            value=message.value_wei,
            data=message.data,
        )
        try:
            return machine.state.apply_transaction(SpoofTransaction(unsigned, from_=message.sender))
        except ValidationError as error:
            raise Reverted(b"", str(error)) from error

    def _machine(self, parent: Block, time_s: int, **fields: Any) -> Any:
        """A virtual machine in the block after `parent`, whose header has these `fields`."""
        header = self._evm.create_header_from_parent(parent.header, timestamp=max(time_s, parent.time_s))
        return self._evm.get_vm(header.copy(gas_limit=GAS_LIMIT, **fields))


def _reverted(computation: Any) -> Reverted:
    if isinstance(computation.error, Revert):
        return Reverted(bytes(computation.output), "execution reverted")
    return Reverted(b"", f"execution failed: {type(computation.error).__name__}: {computation.error}")
