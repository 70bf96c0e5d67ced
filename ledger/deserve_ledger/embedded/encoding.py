"""One byte string for each call, and one call for each byte string: what is signed, hashed and kept.

A tag, then the fields in order, integers big-endian in their contract's width. Only signatures and proofs vary in
length and are preceded by it. The tags are part of every journal that exists: none is ever given to another call.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from deserve_ledger.amounts import check_address, check_amount, check_bytes32, check_uint64
from deserve_ledger.calls import (
    AddBond,
    AddStake,
    BeginBondRelease,
    BeginUnbond,
    Challenge,
    Claim,
    ClaimCredit,
    CommitVote,
    Deposit,
    DrawPanel,
    OpenJob,
    PostRoot,
    RedeemVoucher,
    Refund,
    RegisterNode,
    Release,
    RequestRelease,
    Reserve,
    Resolve,
    RevealVote,
    SlashCoordinator,
    SlashNode,
    Withdraw,
    WithdrawBond,
    WithdrawStake,
)
from deserve_ledger.embedded.calls import Issue, JournalCall, Retire
from deserve_ledger.errors import InvalidField
from deserve_ledger.identifiers import Work
from deserve_ledger.messages import Credit, Voucher, WorkReceipt

__all__ = ["MAX_CALL_BYTES", "decode_call", "encode_call"]

MAX_CALL_BYTES = 4096
_MAX_PROOF = 64  # hashes: more leaves than there can be nodes
_MAX_SIGNATURE_BYTES = 255

_TAGS: dict[int, type[Any]] = {
    1: Deposit,
    2: Withdraw,
    3: RegisterNode,
    4: AddStake,
    5: BeginUnbond,
    6: WithdrawStake,
    7: AddBond,
    8: BeginBondRelease,
    9: WithdrawBond,
    10: OpenJob,
    11: RedeemVoucher,
    12: Refund,
    13: Reserve,
    14: RequestRelease,
    15: Release,
    16: PostRoot,
    17: Claim,
    18: ClaimCredit,
    19: SlashNode,
    20: SlashCoordinator,
    21: Challenge,
    22: DrawPanel,
    23: CommitVote,
    24: RevealVote,
    25: Resolve,
    64: Issue,
    65: Retire,
}
_TAG_OF = {kind: tag for tag, kind in _TAGS.items()}
_NESTED: dict[str, type[Any]] = {kind.__name__: kind for kind in (Voucher, Credit, WorkReceipt, Work)}
_ADDRESSES = frozenset({"account", "coordinator", "signer", "receipt_key"})
_AMOUNTS = frozenset({"amount", "stake", "budget", "cumulative", "units"})


@functools.cache
def _layout(kind: Any) -> tuple[tuple[str, str], ...]:
    """(field, form) of each field of a dataclass."""
    return tuple((field.name, _form(field.name, str(field.type))) for field in fields(kind))


def _form(field: str, annotation: str) -> str:
    if annotation == "int":
        return "amount" if field in _AMOUNTS else "number"
    if annotation == "bytes":
        if field.endswith("signature"):
            return "signature"
        return "address" if field in _ADDRESSES else "word"
    return annotation  # a flag, a proof, or a dataclass that is written in its field's place


def encode_call(call: JournalCall) -> bytes:
    """At most `MAX_CALL_BYTES`. Raises `InvalidField` for a value that does not fit its type."""
    parts = [bytes([_TAG_OF[type(call)]])]
    _write(call, parts)
    return b"".join(parts)


def _write(value: Any, parts: list[bytes]) -> None:
    kind: Any = type(value)
    for field, form in _layout(kind):
        item = getattr(value, field)
        if form == "word":
            parts.append(check_bytes32(field, item))
        elif form == "address":
            parts.append(check_address(field, item))
        elif form == "amount":
            parts.append(check_amount(field, item).to_bytes(16, "big"))
        elif form == "number":
            parts.append(check_uint64(field, item).to_bytes(8, "big"))
        elif form == "bool":
            parts.append(b"\1" if item else b"\0")
        elif form == "signature":
            if len(item) > _MAX_SIGNATURE_BYTES:
                raise InvalidField(field, f"a signature of {len(item)} bytes is longer than {_MAX_SIGNATURE_BYTES}")
            parts += (bytes([len(item)]), item)
        elif form in _NESTED:
            _write(item, parts)
        else:
            if len(item) > _MAX_PROOF:
                raise InvalidField(field, f"a proof of {len(item)} hashes is longer than {_MAX_PROOF}")
            parts.append(bytes([len(item)]))
            parts += (check_bytes32(field, sibling) for sibling in item)


def decode_call(encoded: bytes) -> JournalCall:
    """What `encode_call` made. Raises `InvalidField` for bytes that it never makes."""
    if not encoded or len(encoded) > MAX_CALL_BYTES:
        raise InvalidField("call", f"a call has 1 to {MAX_CALL_BYTES} bytes, not {len(encoded)}")
    kind = _TAGS.get(encoded[0])
    if kind is None:
        raise InvalidField("call", f"no call has tag {encoded[0]}")
    reader = _Reader(encoded)
    call: JournalCall = reader.read(kind)
    if reader.at != len(encoded):
        raise InvalidField("call", f"{len(encoded) - reader.at} bytes follow the last field")
    return call


class _Reader:
    """Where in a call's bytes the next field begins."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self.at = 1

    def read(self, kind: Any) -> Any:
        return kind(*(self._field(field, form) for field, form in _layout(kind)))

    def _field(self, field: str, form: str) -> Any:
        if form in _NESTED:
            return self.read(_NESTED[form])
        if form == "amount":
            return int.from_bytes(self._take(field, 16), "big")
        if form == "number":
            return int.from_bytes(self._take(field, 8), "big")
        if form == "bool":
            flag = self._take(field, 1)[0]
            if flag > 1:
                raise InvalidField(field, f"{flag} is neither yes nor no")
            return flag == 1
        if form == "signature":
            return self._take(field, self._take(field, 1)[0])
        if form in ("word", "address"):
            return self._take(field, 32 if form == "word" else 20)
        count = self._take(field, 1)[0]
        if count > _MAX_PROOF:
            raise InvalidField(field, f"a proof of {count} hashes is longer than {_MAX_PROOF}")
        return tuple(self._take(field, 32) for _ in range(count))

    def _take(self, field: str, size: int) -> bytes:
        taken = self._encoded[self.at : self.at + size]
        if len(taken) != size:
            raise InvalidField(field, "the call ends before it")
        self.at += size
        return taken
