"""An EVM without a chain: calls of a contract are executed one by one, at a time and a block that the test sets.

py-evm's Cancun rules with their gas, no signatures on transactions and no blocks, so that a call takes a millisecond
and a state can be gone back to. The hash of a block is keccak256 of its number's 8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, is_dataclass
from typing import Any

from eth.constants import BLANK_ROOT_HASH
from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.state import CancunState
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import decode, encode
from eth_hash.auto import keccak
from eth_utils.abi import (
    abi_to_signature,
    collapse_if_tuple,
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
)

from deserve_ledger.contracts import Artifact
from deserve_ledger.errors import Refused

GAS_LIMIT = 30_000_000
CHAIN_ID = 1
_RICH = 10**30
_ERROR = keccak(b"Error(string)")[:4]


@dataclass(frozen=True, slots=True)
class Happened:
    """One log entry."""

    address: bytes
    name: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A call that took effect, with the gas that its transaction would have paid for."""

    events: tuple[Happened, ...]
    gas: int


def block_hash(number: int) -> bytes:
    return keccak(number.to_bytes(8, "big"))


def _normal(value: Any) -> Any:
    """As calls and records have it: addresses are bytes, tuples are tuples."""
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    return tuple(_normal(part) for part in value) if isinstance(value, (tuple, list)) else value


class Evm:
    """All accounts have ether enough."""

    def __init__(self, chain_id: int = CHAIN_ID) -> None:
        self.chain_id = chain_id
        self.now_s = 1_800_000_000
        self.block = 1_000
        self._db = AtomicDB()
        self._root = BLANK_ROOT_HASH
        self._errors: dict[bytes, str] = {}
        self._events: dict[bytes, dict[str, Any]] = {}

    def _context(self) -> ExecutionContext:
        hashes = (block_hash(self.block - 1 - age) for age in range(256))
        return ExecutionContext(bytes(20), self.now_s, self.block, 0, bytes(32), GAS_LIMIT, hashes, self.chain_id, 0, 0)

    def pass_s(self, seconds: int) -> None:
        self.now_s += seconds

    def mine(self, blocks: int) -> None:
        self.block += blocks

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever happens inside has not happened afterwards."""
        before = self._root, self.now_s, self.block
        try:
            yield
        finally:
            self._root, self.now_s, self.block = before

    def deploy(self, sender: bytes, artifact: Artifact, *arguments: Any) -> Contract:
        """Raises `Refused` like a call."""
        contract = Contract(self, artifact)
        for entry in artifact.abi:
            if entry["type"] == "error":
                self._errors[keccak(abi_to_signature(entry).encode())[:4]] = entry["name"]  # type: ignore[arg-type]
            elif entry["type"] == "event":
                self._events[event_abi_to_log_topic(entry)] = entry  # type: ignore[arg-type]
        constructor = next((entry for entry in artifact.abi if entry["type"] == "constructor"), {"inputs": []})
        data = artifact.bytecode + encode(_types(constructor["inputs"]), [_plain(value) for value in arguments])
        contract.address = self._transact(sender, b"", data)[0].msg.storage_address
        return contract

    def send(self, sender: bytes, to: bytes, data: bytes) -> Done:
        computation, gas = self._transact(sender, to, data)
        return Done(tuple(self._log(*entry) for entry in computation.get_log_entries()), gas)

    def read(self, to: bytes, data: bytes) -> bytes:
        with self.undone():
            return bytes(self._transact(bytes(20), to, data)[0].output)

    def _transact(self, sender: bytes, to: bytes, data: bytes) -> tuple[Any, int]:
        # A fresh view of the state for each transaction, as gas depends on what the same transaction has touched.
        state = CancunState(self._db, self._context(), self._root)
        state.set_balance(sender, _RICH)
        unsigned = CancunTransactionBuilder.new_unsigned_dynamic_fee_transaction(
            self.chain_id, state.get_nonce(sender), 1, 1, GAS_LIMIT, to, 0, data, []
        )
        computation = state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        gas = _RICH - state.get_balance(sender)
        if computation.is_error:
            raise Refused(self._reason(computation))
        state.persist()
        self._root = state.state_root
        return computation, gas

    def _reason(self, computation: Any) -> str:
        output = computation.output
        if output[:4] == _ERROR:
            return str(decode(["string"], output[4:])[0])
        return self._errors.get(output[:4], output.hex() or repr(computation.error))

    def _log(self, address: bytes, topics: tuple[int, ...], data: bytes) -> Happened:
        words = [topic.to_bytes(32, "big") for topic in topics]
        entry = self._events[words[0]]
        indexed = [item for item in entry["inputs"] if item["indexed"]]
        others = [item for item in entry["inputs"] if not item["indexed"]]
        values = {i["name"]: decode([i["type"]], word)[0] for i, word in zip(indexed, words[1:], strict=True)}
        values |= dict(zip((i["name"] for i in others), decode(_types(others), data), strict=True))
        return Happened(address, entry["name"], {i["name"]: _normal(values[i["name"]]) for i in entry["inputs"]})


def _types(inputs: list[dict[str, Any]]) -> list[str]:
    return [collapse_if_tuple(entry) for entry in inputs]  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    return astuple(value) if is_dataclass(value) and not isinstance(value, type) else value


class Contract:
    """A deployed contract. Function names are the ABI's; dataclasses stand for structs."""

    def __init__(self, evm: Evm, artifact: Artifact) -> None:
        self.evm = evm
        self.address = bytes(20)
        self._functions = {entry["name"]: entry for entry in artifact.abi if entry["type"] == "function"}

    def call(self, sender: bytes, function: str, *arguments: Any) -> Done:
        """Raises `Refused` with the contract's error name."""
        return self.evm.send(sender, self.address, self.encode(function, *arguments))

    def submit(self, sender: bytes, call: Any) -> Done:
        """One of `deserve_ledger.calls`. Raises `Refused` with the contract's error name."""
        name = type(call).__name__
        arguments = [getattr(call, field.name) for field in fields(call)]
        return self.call(sender, name[0].lower() + name[1:], *arguments)

    def read(self, function: str, *arguments: Any) -> Any:
        """What a view returns: a struct as a tuple."""
        output = self.evm.read(self.address, self.encode(function, *arguments))
        (value,) = decode(_types(self._functions[function]["outputs"]), output)
        return _normal(value)

    def encode(self, function: str, *arguments: Any) -> bytes:
        entry = self._functions[function]
        selector = function_abi_to_4byte_selector(entry)  # type: ignore[arg-type]
        return selector + encode(_types(entry["inputs"]), [_plain(value) for value in arguments])
