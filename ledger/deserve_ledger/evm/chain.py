"""A chain as the backend sees it: a few questions with plain answers, and their JSON-RPC form.

`Chain` is small so that tests can put a chain in its place that loses blocks or never answers. Requests are plain
JSON-RPC over one connection that is kept: web3's provider opens one a request, holds a lock of the whole process while
it awaits, and refuses the blocks of some chains (long `extraData`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from deserve_ledger.errors import ChainRefused, ChainUnreachable

__all__ = ["BlockReference", "Chain", "Log", "Receipt", "RpcChain", "TransactionReverted"]

_TIMEOUT_S = 20.0


class TransactionReverted(Exception):
    """The chain executed a message and it failed; `data` is the contract's error in its ABI."""

    def __init__(self, message: str, data: bytes) -> None:
        super().__init__(message)
        self.data = data


@dataclass(frozen=True, slots=True)
class BlockReference:
    number: int
    hash: bytes
    parent: bytes
    time_s: int


@dataclass(frozen=True, slots=True)
class Log:
    block: int
    index: int
    """Within the block."""
    topics: tuple[bytes, ...]
    data: bytes
    address: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    transaction: bytes
    block: int
    succeeded: bool
    gas_used: int
    contract: bytes | None
    """20 bytes, of one that was created."""
    logs: tuple[Log, ...]


class Chain(Protocol):
    """Every question raises `ChainUnreachable` where the endpoint does not answer, `ChainRefused` where it
    answers with an error of its own."""

    async def chain_id(self) -> int: ...
    async def block(self, number: int | str) -> BlockReference | None:
        """By height, or by tag: "latest", "finalized", "pending"."""

    async def nonce(self, account: bytes, block: int | str = "latest") -> int: ...
    async def ether_wei(self, account: bytes) -> int: ...
    async def fees_wei(self) -> tuple[int, int]:
        """The newest block's base fee and the tip that the endpoint suggests (EIP-1559)."""

    async def call(self, sender: bytes, to: bytes, data: bytes, block: int | str = "latest") -> bytes:
        """Raises `TransactionReverted`."""

    async def estimate_gas(self, sender: bytes, to: bytes | None, data: bytes) -> int:
        """Raises `TransactionReverted`."""

    async def send(self, raw: bytes) -> None: ...
    async def is_known(self, transaction: bytes) -> bool:
        """Whether the endpoint has it, in a block or waiting."""

    async def receipt(self, transaction: bytes) -> Receipt | None: ...
    async def logs(self, address: bytes, first: int, last: int) -> Sequence[Log]: ...
    async def close(self) -> None: ...


class RpcChain:
    """A `Chain` over HTTP."""

    def __init__(self, rpc_url: str) -> None:
        self._rpc_url = rpc_url
        self._session: aiohttp.ClientSession | None = None
        self._asked = itertools.count(1)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def chain_id(self) -> int:
        return int(await self._ask("eth_chainId"), 16)

    async def block(self, number: int | str) -> BlockReference | None:
        shown = await self._ask("eth_getBlockByNumber", _height(number), False)
        if shown is None:
            return None
        # A pending block has no hash yet.
        known = bytes.fromhex(shown["hash"][2:]) if shown.get("hash") else bytes(32)
        parent, time_s = bytes.fromhex(shown["parentHash"][2:]), int(shown["timestamp"], 16)
        return BlockReference(int(shown["number"], 16), known, parent, time_s)

    async def nonce(self, account: bytes, block: int | str = "latest") -> int:
        return int(await self._ask("eth_getTransactionCount", _hex(account), _height(block)), 16)

    async def ether_wei(self, account: bytes) -> int:
        return int(await self._ask("eth_getBalance", _hex(account), "latest"), 16)

    async def fees_wei(self) -> tuple[int, int]:
        newest = await self._ask("eth_getBlockByNumber", "latest", False)
        return int(newest.get("baseFeePerGas", "0x0"), 16), int(await self._ask("eth_maxPriorityFeePerGas"), 16)

    async def call(self, sender: bytes, to: bytes, data: bytes, block: int | str = "latest") -> bytes:
        message = {"from": _hex(sender), "to": _hex(to), "data": _hex(data)}
        return bytes.fromhex((await self._ask("eth_call", message, _height(block)))[2:])

    async def estimate_gas(self, sender: bytes, to: bytes | None, data: bytes) -> int:
        message = {"from": _hex(sender), "data": _hex(data)} | ({"to": _hex(to)} if to is not None else {})
        return int(await self._ask("eth_estimateGas", message), 16)

    async def send(self, raw: bytes) -> None:
        await self._ask("eth_sendRawTransaction", _hex(raw))

    async def is_known(self, transaction: bytes) -> bool:
        return await self._ask("eth_getTransactionByHash", _hex(transaction)) is not None

    async def receipt(self, transaction: bytes) -> Receipt | None:
        shown = await self._ask("eth_getTransactionReceipt", _hex(transaction))
        if shown is None or shown.get("blockNumber") is None:
            return None
        created = shown.get("contractAddress")
        return Receipt(
            transaction=transaction,
            block=int(shown["blockNumber"], 16),
            succeeded=int(shown["status"], 16) == 1,
            gas_used=int(shown["gasUsed"], 16),
            contract=bytes.fromhex(created[2:]) if created else None,
            logs=tuple(map(_log, shown["logs"])),
        )

    async def logs(self, address: bytes, first: int, last: int) -> Sequence[Log]:
        query = {"address": _hex(address), "fromBlock": _height(first), "toBlock": _height(last)}
        return [_log(shown) for shown in await self._ask("eth_getLogs", query)]

    async def _ask(self, method: str, *params: Any) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        request = {"jsonrpc": "2.0", "id": next(self._asked), "method": method, "params": params}
        try:
            async with self._session.post(self._rpc_url, json=request) as response:
                answer: Any = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # Also what is no JSON: a proxy's page in place of the endpoint's answer.
            raise ChainUnreachable(f"{self._rpc_url}: {error or type(error).__name__}") from error
        if not isinstance(answer, dict) or ("error" not in answer and "result" not in answer):
            raise ChainUnreachable(f"{self._rpc_url}: answers {method} with {str(answer)[:200]!r}")
        fault = answer.get("error")
        if not fault:
            return answer["result"]
        message, data = str(fault.get("message", fault)), fault.get("data")
        if isinstance(data, dict):  # some nodes wrap it once more
            data = data.get("data")
        reverted = isinstance(data, str) and data.startswith("0x")
        if reverted or fault.get("code") == 3 or "revert" in message:
            raise TransactionReverted(message, bytes.fromhex(data[2:]) if reverted else b"")
        raise ChainRefused(f"{method}: {message}")


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _height(number: int | str) -> str:
    return number if isinstance(number, str) else hex(number)


def _log(shown: Any) -> Log:
    return Log(
        block=int(shown["blockNumber"], 16),
        index=int(shown["logIndex"], 16),
        topics=tuple(bytes.fromhex(topic[2:]) for topic in shown["topics"]),
        data=bytes.fromhex(shown["data"][2:]),
        address=bytes.fromhex(shown["address"][2:]),
    )
