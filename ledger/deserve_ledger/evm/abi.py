"""Solidity's ABI of a contract: calls and answers, events, and the names of its errors. No network.

Addresses are 20 bytes on our side, whatever the codec likes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak
from eth_utils.abi import collapse_if_tuple

from deserve_ledger.amounts import check_address, check_amount, check_bytes32, check_uint64
from deserve_ledger.contracts import load_artifact

__all__ = ["Interface", "ledger_interface", "token_interface"]

_Entry = Mapping[str, Any]
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "uint128": check_amount,
    "uint64": check_uint64,
    "bytes32": check_bytes32,
    "address": check_address,
}


class Interface:
    """Of one contract, from its ABI in JSON. Overloaded functions are not told apart; ours has none."""

    def __init__(self, abi: Sequence[_Entry]) -> None:
        named = {kind: [one for one in abi if one["type"] == kind] for kind in ("function", "event", "error")}
        self._functions = {one["name"]: one for one in named["function"]}
        self._events = {keccak(_signature(one)): one for one in named["event"]}
        self._errors = {keccak(_signature(one))[:4]: str(one["name"]) for one in named["error"]}
        self._constructor: _Entry = next((one for one in abi if one["type"] == "constructor"), {"inputs": []})

    def constructor_arguments(self, *arguments: Any) -> bytes:
        """What follows the creation code."""
        return encode(_types(self._constructor["inputs"]), arguments)

    def encode(self, function: str, *arguments: Any) -> bytes:
        """Calldata: selector and arguments. Raises `InvalidField` for one that does not fit its type."""
        entry = self._functions[function]
        for value, one in zip(arguments, entry["inputs"], strict=True):
            _check(value, one)
        return keccak(_signature(entry))[:4] + encode(_types(entry["inputs"]), arguments)

    def decode(self, function: str, data: bytes) -> Any:
        """What the function returned: a value, or a tuple for a struct. Raises `ValueError` for anything else."""
        outputs = self._functions[function]["outputs"]
        try:
            values = decode(_types(outputs), data)
        except DecodingError as error:
            raise ValueError(f"{function}: {error}") from error
        return _plain(values[0], outputs[0])

    def event(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, int | bytes | bool]] | None:
        """Name and fields of a log; None for an event that the contract does not declare."""
        entry = self._events.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = iter(topics[1:])
        plain = [one for one in entry["inputs"] if not one["indexed"]]
        rest = iter(decode(_types(plain), data))
        fields = {}
        for one in entry["inputs"]:
            value = decode([collapse_if_tuple(one)], next(indexed))[0] if one["indexed"] else next(rest)
            fields[one["name"]] = _plain(value, one)
        return entry["name"], fields

    def error(self, data: bytes) -> str | None:
        """The name of the custom error in the data of a revert."""
        return self._errors.get(data[:4])


def _signature(entry: _Entry) -> bytes:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})".encode()


def _types(inputs: Sequence[_Entry]) -> list[str]:
    return [collapse_if_tuple(dict(one)) for one in inputs]


def _check(value: Any, entry: _Entry) -> None:
    """The codec would pad what is too short. Raises `InvalidField`."""
    kind: str = entry["type"]
    if kind == "tuple":
        for one, part in zip(value, entry["components"], strict=True):
            _check(one, part)
    elif kind.endswith("[]"):
        for one in value:
            _check(one, {**entry, "type": kind[:-2]})
    elif kind in _CHECKS:
        _CHECKS[kind](entry["name"], value)


def _plain(value: Any, entry: _Entry) -> Any:
    kind: str = entry["type"]
    if kind == "address":
        return bytes.fromhex(value[2:])
    if kind == "tuple":
        return tuple(_plain(one, part) for one, part in zip(value, entry["components"], strict=True))
    return value


@functools.cache
def ledger_interface() -> Interface:
    return Interface(load_artifact("DeserveLedger").abi)


@functools.cache
def token_interface() -> Interface:
    """Of any ERC-20."""
    return Interface(load_artifact("TestToken").abi)
