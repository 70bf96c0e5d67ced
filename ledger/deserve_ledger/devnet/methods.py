"""What a development chain answers: the JSON-RPC methods that clients of Ethereum call (execution-apis).

Those that turn its clock or take blocks back are for tests and answer only where the chain was started for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deserve_ledger.devnet.accounts import ACCOUNTS, development_account
from deserve_ledger.devnet.chain import GAS_LIMIT, Block, Chain, Message, Reverted, Unknown, Unminable
from deserve_ledger.devnet.producer import Producer
from deserve_ledger.devnet.rendering import (
    data,
    quantity,
    render_block,
    render_logs,
    render_receipt,
    render_transaction,
)

__all__ = ["Methods", "RpcError"]

_INVALID_PARAMS, _NO_METHOD, _REJECTED, _REVERTED = -32602, -32601, -32000, 3
_TIP_WEI = 10**9


class RpcError(Exception):
    def __init__(self, code: int, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


class Methods:
    def __init__(self, producer: Producer, *, time_control: bool = False) -> None:
        self._producer = producer
        self._chain: Chain = producer.chain
        self._snapshots: list[tuple[int, int]] = []
        own = vars(type(self)).items()
        self._methods = {name: getattr(self, name) for name, _ in own if name.startswith(("eth_", "net_", "web3_"))}
        if time_control:
            self._methods |= {name: getattr(self, name) for name, _ in own if name.startswith("evm_")}

    def answer(self, method: str, params: list[Any]) -> Any:
        """Raises `RpcError`."""
        function: Callable[..., Any] | None = self._methods.get(method)
        if function is None:
            hint = "; it needs a chain started with --time-control" if method.startswith("evm_") else ""
            raise RpcError(_NO_METHOD, f"the method {method} does not exist/is not available{hint}")
        try:
            return function(*params)
        except Reverted as error:
            raise RpcError(_REVERTED, str(error), data(error.data)) from error
        except (Unknown, Unminable) as error:
            raise RpcError(_REJECTED, str(error)) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RpcError(_INVALID_PARAMS, f"{method}: {error}") from error

    # What is told of the chain

    def web3_clientVersion(self) -> str:  # noqa: N802 - the methods' own names
        return "deserve-net/devnet"

    def net_version(self) -> str:
        return str(self._chain.chain_id)

    def eth_chainId(self) -> str:  # noqa: N802
        return quantity(self._chain.chain_id)

    def eth_syncing(self) -> bool:
        return False

    def eth_accounts(self) -> list[str]:
        return [development_account(number).address for number in range(ACCOUNTS)]

    def eth_blockNumber(self) -> str:  # noqa: N802
        return quantity(self._chain.head.number)

    def eth_getBlockByNumber(self, tag: str, full: bool = False) -> Any:  # noqa: N802
        try:
            shown = render_block(self._chain.block(self._height(tag)), full)
        except Unknown:
            return None
        if tag == "pending":
            number, parent = self._chain.head.number + 1, self._chain.head.hash
            own = {"number": quantity(number), "parentHash": data(parent), "timestamp": quantity(self._producer.now_s)}
            shown |= {**own, "hash": None, "nonce": None, "transactions": []}
        return shown

    def eth_getBlockByHash(self, block_hash: str, full: bool = False) -> Any:  # noqa: N802
        number = self._chain.number_of(_bytes(block_hash))
        return None if number is None else render_block(self._chain.block(number), full)

    def eth_getTransactionByHash(self, transaction_hash: str) -> Any:  # noqa: N802
        if (found := self._chain.find(_bytes(transaction_hash))) is not None:
            block, index = found
            return render_transaction(block.transactions[index], block, index)
        waiting = self._producer.pool.find(_bytes(transaction_hash))
        return None if waiting is None else render_transaction(waiting, None, 0)

    def eth_getTransactionReceipt(self, transaction_hash: str) -> Any:  # noqa: N802
        found = self._chain.find(_bytes(transaction_hash))
        return None if found is None else render_receipt(*found)

    def eth_getLogs(self, query: dict[str, Any]) -> list[Any]:  # noqa: N802
        addresses, topics = query.get("address"), query.get("topics") or []
        wanted = None if addresses is None else {one.lower() for one in _listed(addresses)}
        return [
            log
            for block in self._queried(query)
            if block.header.bloom
            for log in render_logs(block)
            if (wanted is None or log["address"].lower() in wanted) and _match(log["topics"], topics)
        ]

    def _queried(self, query: dict[str, Any]) -> list[Block]:
        if "blockHash" in query:
            number = self._chain.number_of(_bytes(query["blockHash"]))
            if number is None:
                raise Unknown("unknown block")
            return [self._chain.block(number)]
        first, last = (self._height(query.get(key, "latest")) for key in ("fromBlock", "toBlock"))
        return self._chain.blocks[first : last + 1]

    # What is told of accounts

    def eth_getBalance(self, address: str, tag: str = "latest") -> str:  # noqa: N802
        return quantity(self._chain.state(self._height(tag)).get_balance(_bytes(address)))

    def eth_getTransactionCount(self, address: str, tag: str = "latest") -> str:  # noqa: N802
        nonce = int(self._chain.state(self._height(tag)).get_nonce(_bytes(address)))
        return quantity(self._producer.pool.next_nonce(_bytes(address), nonce) if tag == "pending" else nonce)

    def eth_getCode(self, address: str, tag: str = "latest") -> str:  # noqa: N802
        return data(self._chain.state(self._height(tag)).get_code(_bytes(address)))

    def eth_getStorageAt(self, address: str, slot: str, tag: str = "latest") -> str:  # noqa: N802
        value = self._chain.state(self._height(tag)).get_storage(_bytes(address), int(slot, 16))
        return data(int(value).to_bytes(32, "big"))

    # Messages and transactions

    def eth_call(self, message: dict[str, Any], tag: str = "latest", *_: Any) -> str:
        return data(self._chain.call(_message(message), *self._moment(tag)))

    def eth_estimateGas(self, message: dict[str, Any], tag: str = "latest", *_: Any) -> str:  # noqa: N802
        return quantity(self._chain.estimate_gas(_message(message), *self._moment(tag)))

    def eth_sendRawTransaction(self, raw: str) -> str:  # noqa: N802
        return data(self._producer.submit(_bytes(raw)))

    def eth_gasPrice(self) -> str:  # noqa: N802
        return quantity(self._chain.next_base_fee_wei() + _TIP_WEI)

    def eth_maxPriorityFeePerGas(self) -> str:  # noqa: N802
        return quantity(_TIP_WEI)

    def eth_feeHistory(self, count: str | int, tag: str, percentiles: list[float] | None = None) -> Any:  # noqa: N802
        last = self._height(tag)
        asked = count if isinstance(count, int) else int(count, 16)
        blocks = self._chain.blocks[max(0, last + 1 - min(asked, 1024)) : last + 1]
        fees = [block.header.base_fee_per_gas for block in blocks] + [self._chain.next_base_fee_wei()]
        return {
            "oldestBlock": quantity(blocks[0].number),
            "baseFeePerGas": [quantity(fee) for fee in fees],
            "gasUsedRatio": [block.header.gas_used / GAS_LIMIT for block in blocks],
            "reward": [[quantity(_TIP_WEI)] * len(percentiles or []) for _ in blocks],
        }

    # For tests

    def evm_increaseTime(self, seconds: int | str) -> str:  # noqa: N802
        self._producer.ahead_s += seconds if isinstance(seconds, int) else int(seconds, 0)
        return quantity(self._producer.ahead_s)

    def evm_setNextBlockTimestamp(self, time_s: int | str) -> None:  # noqa: N802
        asked = time_s if isinstance(time_s, int) else int(time_s, 0)
        if asked < self._chain.head.time_s:
            raise ValueError(f"{asked} lies before the newest block's time, {self._chain.head.time_s}")
        self._producer.next_time_s = asked

    def evm_mine(self, *_: Any) -> str:
        return data(self._producer.mine().hash)

    def evm_setAutomine(self, on: bool) -> bool:  # noqa: N802
        self._producer.automine = bool(on)
        return True

    def evm_snapshot(self) -> str:
        self._snapshots.append((self._chain.head.number, self._producer.ahead_s))
        return quantity(len(self._snapshots))

    def evm_revert(self, snapshot: str) -> bool:
        number = int(snapshot, 16)
        if not 1 <= number <= len(self._snapshots):
            return False
        height, self._producer.ahead_s = self._snapshots[number - 1]
        self._chain.revert_to(height)
        del self._snapshots[number - 1 :]
        return True

    # Heights

    def _height(self, tag: str) -> int:
        """A block is final at once here, as nobody else can make another one."""
        if tag in ("latest", "pending", "safe", "finalized"):
            return self._chain.head.number
        return 0 if tag == "earliest" else int(tag, 16)

    def _moment(self, tag: str) -> tuple[int, int]:
        """The block on top of which a message runs, and the time there: now, where no block has been named."""
        number = self._height(tag)
        named = tag not in ("latest", "pending", "safe", "finalized")
        return number, self._chain.block(number).time_s if named else self._producer.now_s


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _message(message: dict[str, Any]) -> Message:
    return Message(
        sender=_bytes(message["from"]) if message.get("from") else bytes(20),
        to=_bytes(message.get("to") or ""),
        data=_bytes(message.get("input") or message.get("data") or ""),
        value_wei=int(message.get("value") or "0x0", 16),
        gas=min(int(message["gas"], 16) if message.get("gas") else GAS_LIMIT, GAS_LIMIT),
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _match(topics: list[str], wanted: list[Any]) -> bool:
    """Position by position; None stands for any topic, a list for any of its members."""
    if len(wanted) > len(topics):
        return False
    pairs = zip(wanted, topics, strict=False)
    return all(any(one.lower() == topic for one in _listed(want)) for want, topic in pairs if want is not None)
