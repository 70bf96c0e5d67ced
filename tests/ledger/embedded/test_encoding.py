"""Every call has one encoding and every encoding one call; what does not fit is named, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_ledger import calls
from deserve_ledger.embedded.calls import Issue, JournalCall
from deserve_ledger.embedded.encoding import MAX_CALL_BYTES, decode_call, encode_call
from deserve_ledger.errors import InvalidField
from deserve_ledger.identifiers import Work
from deserve_ledger.messages import Credit, Voucher, WorkReceipt

KINDS = typing.get_args(JournalCall)
WORD, ADDRESS = st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20)
AMOUNTS = {"amount", "stake", "budget", "cumulative", "units"}
ADDRESSES = {"account", "coordinator", "signer", "receipt_key"}


def values(field: dataclasses.Field) -> st.SearchStrategy:
    nested = {kind.__name__: kind for kind in (Voucher, Credit, WorkReceipt, Work)}
    if field.type in nested:
        return made(nested[field.type])
    if field.type == "int":
        return st.integers(0, 2 ** (128 if field.name in AMOUNTS else 64) - 1)
    if field.name.endswith("signature"):
        return st.binary(max_size=70)
    if field.name == "proof":
        return st.lists(WORD, max_size=5).map(tuple)
    if field.type == "bool":
        return st.booleans()
    return ADDRESS if field.name in ADDRESSES else WORD


def made(kind: type) -> st.SearchStrategy:
    return st.builds(kind, *(values(field) for field in dataclasses.fields(kind)))


CALLS = st.one_of(*(made(kind) for kind in KINDS))


@given(CALLS)
@settings(max_examples=200, deadline=None)
def test_a_call_is_read_back_as_written(call):
    assert decode_call(encode_call(call)) == call


@given(CALLS, st.data())
@settings(max_examples=200, deadline=None)
def test_no_other_bytes_mean_the_same_call(call, data):
    encoded = encode_call(call)
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + bytes([encoded[at] ^ data.draw(st.integers(1, 255))]) + encoded[at + 1 :]
    for other in (changed, encoded[:at], encoded + b"\0"):
        try:
            assert encode_call(decode_call(other)) == other
            assert decode_call(other) != call
        except InvalidField:
            pass


def test_every_call_can_be_journaled():
    assert {kind.__name__ for kind in KINDS} == {*calls.__all__, "Issue", "Retire"} - {"Call"}


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (calls.Deposit(-1), "amount"),
        (calls.Deposit(2**128), "amount"),
        (calls.PostRoot(2**64, bytes(32)), "epoch"),
        (calls.PostRoot(0, bytes(31)), "root"),
        (calls.Reserve(bytes(20), 1), "node_id"),
        (calls.Claim(bytes(20), 1, bytes(32), 1, (bytes(32),) * 65), "proof"),
        (calls.RedeemVoucher(Voucher(bytes(32), 1, 1, bytes(32)), bytes(256)), "signature"),
        (Issue(bytes(32), 1), "account"),
    ],
)
def test_what_does_not_fit_is_named(call, field):
    with pytest.raises(InvalidField, match=field):
        encode_call(call)


@pytest.mark.parametrize("encoded", [b"", b"\0", b"\xff", bytes([8, 0]), bytes(MAX_CALL_BYTES + 1)])
def test_what_is_no_call_is_refused(encoded):
    with pytest.raises(InvalidField, match=r"call|after"):
        decode_call(encoded)
