"""Ether and test tokens from the first development account to anybody who asks, on a development chain."""

from __future__ import annotations

import asyncio
from typing import Any

from deserve_ledger.devnet.accounts import development_account
from deserve_ledger.evm.abi import token_interface
from deserve_ledger.evm.chain import RpcChain

__all__ = ["give"]

_GAS = 100_000
_POLL_S = 0.05
_POLLS = 1200


async def give(rpc_url: str, address: bytes, *, ether_wei: int = 0, token: bytes = b"", tokens: int = 0) -> None:
    """Base units of the ERC-20 at `token` and wei, where above zero, to the 20-byte `address`.

    Raises `ChainUnreachable`, `ChainRefused`, and `TimeoutError` where no block takes it. Two at a time may take each
    other's nonce: the second is refused.
    """
    giver = development_account(0)
    chain = RpcChain(rpc_url)
    try:
        chain_id = await chain.chain_id()
        gifts = [(address, b"", ether_wei)] if ether_wei else []
        if tokens:
            gifts.append((token, token_interface().encode("transfer", address, tokens), 0))
        for recipient, data, wei in gifts:
            base_wei, tip_wei = await chain.fees_wei()
            fields: dict[str, Any] = {
                "type": 2,
                "chainId": chain_id,
                "nonce": await chain.nonce(bytes.fromhex(giver.address[2:]), "pending"),
                "to": recipient,
                "data": data,
                "value": wei,
                "gas": _GAS,
                "maxPriorityFeePerGas": tip_wei,
                "maxFeePerGas": 2 * base_wei + tip_wei,
            }
            signed = giver.sign_transaction(fields)
            await chain.send(bytes(signed.raw_transaction))
            for _ in range(_POLLS):
                if await chain.receipt(bytes(signed.hash)) is not None:
                    break
                await asyncio.sleep(_POLL_S)
            else:
                raise TimeoutError(f"no block took transaction 0x{signed.hash.hex()}")
    finally:
        await chain.close()
