"""A node's two keys vouch for each other, here and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deserve_ledger.binding import bind, check_binding
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import BadSignature, LedgerError
from deserve_ledger.identifiers import node_id
from deserve_ledger.keystore import Key

DOMAIN = Domain(31337, bytes(range(20)))
OPERATOR = b"\7" * 20
PEER = bytes(range(32))
BOUND = bind(DOMAIN, OPERATOR, PEER, Key.of(b"\5" * 32), 3)


def test_both_signatures_hold_and_name_the_node():
    public = Ed25519PrivateKey.from_private_bytes(PEER).public_key().public_bytes_raw()
    assert check_binding(DOMAIN, BOUND) == node_id(OPERATOR, public)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operator": b"\x08" * 20}, "receipt_signature"),
        ({"nonce": 4}, "receipt_signature"),
        ({"receipt_key": b"\x08" * 20}, "receipt_signature"),
        ({"peer_signature": bytes(64)}, "peer_signature"),
        ({"peer_signature": b""}, "peer_signature"),
        ({"receipt_signature": bytes(65)}, "65 bytes"),
        ({"peer_key": b"short"}, "peer_key"),
    ],
)
def test_whatever_is_changed_is_refused(change, reason):
    with pytest.raises(LedgerError, match=reason):
        check_binding(DOMAIN, dataclasses.replace(BOUND, **change))


def test_another_ledger_another_peer_or_another_receipt_key_is_refused():
    with pytest.raises(BadSignature):
        check_binding(dataclasses.replace(DOMAIN, chain_id=1), BOUND)
    other = bind(DOMAIN, OPERATOR, b"\1" * 32, Key.of(b"\5" * 32), 3)
    with pytest.raises(BadSignature, match="peer_signature"):
        check_binding(DOMAIN, dataclasses.replace(BOUND, peer_signature=other.peer_signature))
    with pytest.raises(BadSignature, match="receipt_signature"):
        check_binding(DOMAIN, dataclasses.replace(BOUND, peer_key=other.peer_key))
