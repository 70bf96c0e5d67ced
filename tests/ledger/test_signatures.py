"""Signatures: equal to eth-account's, bound to one contract on one chain, and to every field."""

from __future__ import annotations

import dataclasses

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_ledger.eip712 import Domain, digest, recover, sign
from deserve_ledger.errors import BadSignature, InvalidField
from deserve_ledger.messages import BindNode, Credit, Voucher, WorkReceipt

DOMAIN = Domain(31337, bytes(range(20)))
KEY = keccak(b"a key")
ADDRESS = bytes.fromhex(Account.from_key(KEY).address[2:])
HALF = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WORDS, AMOUNTS, NUMBERS = st.binary(min_size=32, max_size=32), st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1)
ADDRESSES = st.binary(min_size=20, max_size=20)
MESSAGES = (
    st.builds(Voucher, WORDS, AMOUNTS, NUMBERS, WORDS)
    | st.builds(Credit, ADDRESSES, WORDS, AMOUNTS, NUMBERS, WORDS)
    | st.builds(WorkReceipt, WORDS, WORDS, WORDS, WORDS, AMOUNTS)
    | st.builds(BindNode, ADDRESSES, WORDS, NUMBERS)
)


@given(MESSAGES, WORDS)
@settings(max_examples=40, deadline=None)
def test_a_signature_is_the_one_that_eth_account_makes(message, seed):
    key = keccak(seed)
    domain = {"name": "deserve-net", "version": "1", "chainId": 31337, "verifyingContract": DOMAIN.contract}
    types = {message.NAME: [{"name": name, "type": solidity} for name, solidity in message.TYPES]}
    values = zip((name for name, _ in message.TYPES), dataclasses.astuple(message), strict=True)
    encoded = encode_typed_data(domain, types, dict(values))
    assert bytes(Account.sign_message(encoded, key).signature) == sign(key, DOMAIN, message)
    assert recover(DOMAIN, message, sign(key, DOMAIN, message)).hex() == Account.from_key(key).address[2:].lower()


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(DOMAIN, chain_id=1),
        dataclasses.replace(DOMAIN, contract=bytes(20)),
        dataclasses.replace(DOMAIN, name="deserve"),
        dataclasses.replace(DOMAIN, version="2"),
    ],
)
def test_a_signature_for_another_chain_or_contract_is_somebody_elses(other):
    voucher = Voucher(bytes(32), 5, 1, bytes(32))
    assert recover(DOMAIN, voucher, sign(KEY, DOMAIN, voucher)) == ADDRESS
    assert recover(other, voucher, sign(KEY, DOMAIN, voucher)) != ADDRESS


@given(MESSAGES, st.data())
@settings(max_examples=40, deadline=None)
def test_every_field_is_covered(message, data):
    field = data.draw(st.sampled_from(dataclasses.fields(message))).name
    value = getattr(message, field)
    other = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    changed = dataclasses.replace(message, **{field: other})
    assert digest(DOMAIN, changed) != digest(DOMAIN, message)


def test_malformed_and_malleable_signatures_are_refused():
    voucher = Voucher(bytes(32), 5, 1, bytes(32))
    good = sign(KEY, DOMAIN, voucher)
    twin = good[:32] + (HALF - int.from_bytes(good[32:64], "big")).to_bytes(32, "big") + bytes([55 - good[64]])
    for bad in (b"", good[:64], good + b"\0", good[:64] + b"\0", twin, bytes(64) + b"\x1b"):
        with pytest.raises(BadSignature):
            recover(DOMAIN, voucher, bad)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Voucher(bytes(31), 5, 1, bytes(32)), "jobId"),
        (Voucher(bytes(32), 2**128, 1, bytes(32)), "cumulative"),
        (Voucher(bytes(32), -1, 1, bytes(32)), "cumulative"),
        (Voucher(bytes(32), 1, 2**64, bytes(32)), "seq"),
        (BindNode(bytes(32), bytes(32), 0), "operator"),
    ],
)
def test_what_does_not_fit_its_type_is_named(message, field):
    with pytest.raises(InvalidField, match=field):
        digest(DOMAIN, message)
