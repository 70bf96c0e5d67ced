"""A chain as the backend sees it: a few questions with plain answers, and web3 to put them to an endpoint.

`Chain` is small so that tests can put a chain in its place that loses blocks or never answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from eth_typing import Address, BlockNumber, Hash32
from eth_utils.address import to_canonical_address
from web3 import AsyncWeb3
from web3.exceptions import BlockNotFound, ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.middleware import ExtraDataToPOAMiddleware
from web3.types import BlockIdentifier, BlockParams, FilterParams, LogReceipt, TxParams

from deserve_ledger.errors import ChainRefused, ChainUnreachable
from deserve_ledger.evm.provider import SessionProvider

__all__ = ["BlockReference", "Chain", "Log", "Receipt", "RpcChain", "TransactionReverted"]

_SHOWN = 200

Answer = TypeVar("Answer")


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
    """A `Chain` over HTTP, through web3."""

    def __init__(self, rpc_url: str) -> None:
        self._provider = SessionProvider(rpc_url)
        # Without web3's usual middlewares, which ask the chain for its id again and again. This one keeps the long
        # `extraData` of chains with proof of authority from those who would refuse the block for it.
        self._eth = AsyncWeb3(self._provider, middleware=[(ExtraDataToPOAMiddleware, "extra_data")]).eth

    async def close(self) -> None:
        await self._provider.disconnect()

    async def chain_id(self) -> int:
        return await self._ask(self._eth.chain_id)

    async def block(self, number: int | str) -> BlockReference | None:
        shown = await self._ask(_found(self._eth.get_block(_block(number))))
        if shown is None:
            return None
        # A pending block has no hash yet.
        known = bytes(shown.get("hash") or bytes(32))
        return BlockReference(shown["number"], known, bytes(shown["parentHash"]), shown["timestamp"])

    async def nonce(self, account: bytes, block: int | str = "latest") -> int:
        return await self._ask(self._eth.get_transaction_count(Address(account), _block(block)))

    async def ether_wei(self, account: bytes) -> int:
        return await self._ask(self._eth.get_balance(Address(account)))

    async def fees_wei(self) -> tuple[int, int]:
        newest = await self._ask(self._eth.get_block("latest"))
        return newest.get("baseFeePerGas", 0), await self._ask(self._eth.max_priority_fee)

    async def call(self, sender: bytes, to: bytes, data: bytes, block: int | str = "latest") -> bytes:
        message: TxParams = {"from": Address(sender), "to": Address(to), "data": data}
        return bytes(await self._ask(self._eth.call(message, _block(block))))

    async def estimate_gas(self, sender: bytes, to: bytes | None, data: bytes) -> int:
        message: TxParams = {"from": Address(sender), "data": data}
        if to is not None:
            message["to"] = Address(to)
        return await self._ask(self._eth.estimate_gas(message))

    async def send(self, raw: bytes) -> None:
        await self._ask(self._eth.send_raw_transaction(raw))

    async def is_known(self, transaction: bytes) -> bool:
        return await self._ask(_found(self._eth.get_transaction(Hash32(transaction)))) is not None

    async def receipt(self, transaction: bytes) -> Receipt | None:
        shown = await self._ask(_found(self._eth.get_transaction_receipt(Hash32(transaction))))
        if shown is None or shown.get("blockNumber") is None:
            return None
        created = shown.get("contractAddress")
        return Receipt(
            transaction=transaction,
            block=shown["blockNumber"],
            succeeded=shown["status"] == 1,
            gas_used=shown["gasUsed"],
            contract=to_canonical_address(created) if created else None,
            logs=tuple(map(_log, shown["logs"])),
        )

    async def logs(self, address: bytes, first: int, last: int) -> Sequence[Log]:
        query: FilterParams = {"address": Address(address), "fromBlock": _block(first), "toBlock": _block(last)}
        return [_log(shown) for shown in await self._ask(self._eth.get_logs(query))]

    async def _ask(self, question: Awaitable[Answer]) -> Answer:
        """Await it; web3's errors become those of a `Chain`."""
        try:
            return await question
        except ContractLogicError as error:
            raise TransactionReverted(error.message or "execution reverted", _revert_data(error.data)) from error
        except Web3RPCError as error:
            fault: Any = (error.rpc_response or {}).get("error", {})
            message = fault.get("message", error.message)
            # web3 knows the words of geth; others say the same in their own.
            if "revert" in message.lower():
                raise TransactionReverted(message, _revert_data(fault.get("data"))) from error
            raise ChainRefused(message) from error
        except Web3Exception as error:
            raise ChainUnreachable(f"{self._provider.endpoint_uri}: {str(error)[:_SHOWN]}") from error


async def _found(question: Awaitable[Answer]) -> Answer | None:
    try:
        return await question
    except (BlockNotFound, TransactionNotFound):
        return None


def _block(number: int | str) -> BlockIdentifier:
    return cast(BlockParams, number) if isinstance(number, str) else BlockNumber(number)


def _revert_data(data: Any) -> bytes:
    if isinstance(data, dict):  # some nodes wrap it once more
        data = data.get("data")
    return bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""


def _log(shown: LogReceipt) -> Log:
    return Log(
        block=shown["blockNumber"],
        index=shown["logIndex"],
        topics=tuple(map(bytes, shown["topics"])),
        data=bytes(shown["data"]),
        address=to_canonical_address(shown["address"]),
    )
