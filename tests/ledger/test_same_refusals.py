"""What the two ledgers refuse, they refuse for the same reasons: bad signatures, foreign ones, every error name."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from eth_hash.auto import keccak
from ledger_backends import Both
from ledger_parties import ACCOUNTS, KEYS, SESSION, SESSION_KEY

from deserve_ledger import calls
from deserve_ledger.contracts import load_artifact
from deserve_ledger.eip712 import sign
from deserve_ledger.embedded import machine
from deserve_ledger.identifiers import job_id
from deserve_ledger.messages import Voucher

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
FIELD = 2**256 - 2**32 - 977
ONLY_EMBEDDED = {"NotIssuer", "SupplyExceeded", "ERC20InsufficientBalance"}
"""Of the journal's own money; the last one is the error of the token that stands in its place on a chain."""
ONLY_ON_CHAIN = {"BadTerms", "FeeOnTransfer", "InvalidShortString", "StringTooLong", "ReentrancyGuardReentrantCall",
                 "SafeERC20FailedOperation"}  # fmt: skip


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture(scope="module")
def both():
    ledger = Both()
    opened = calls.OpenJob(bytes(32), ACCOUNTS[1], SESSION, 500, ledger.now_s + 100)
    assert ledger.submit(ACCOUNTS[0], opened)[0] == "done"
    return ledger


VOUCHER = Voucher(job_id(ACCOUNTS[0], bytes(32)), 5, 1, bytes(32))


def malformed(good: bytes) -> dict[str, bytes]:
    r, s, v = good[:32], good[32:64], good[64:]
    twin = word(ORDER - int.from_bytes(s, "big"))
    return {
        "empty": b"",
        "compact": good[:64],
        "long": good + b"\0",
        "v 0": r + s + b"\0",
        "v 1": r + s + b"\1",
        "v 29": r + s + b"\x1d",
        "high s": r + twin + bytes([55 - v[0]]),
        "zero r": word(0) + s + v,
        "zero s": r + word(0) + v,
        "r is the order": word(ORDER) + s + v,
        "r above the field": word(FIELD + 1) + s + v,
        "s is the order": r + word(ORDER) + v,
        "all ones": b"\xff" * 64 + v,
    } | {f"noise {n}": keccak(word(n)) + b"\0" + keccak(word(n + 99))[1:] + v for n in range(12)}


@pytest.mark.parametrize("kind", malformed(bytes(65)))
def test_a_signature_that_is_none_is_refused_alike(both, kind):
    """`Both` compares; noise is some key's signature wherever its r is a point's coordinate."""
    signature = malformed(sign(SESSION_KEY, both.domain, VOUCHER))[kind]
    outcome = both.submit(ACCOUNTS[1], calls.RedeemVoucher(VOUCHER, signature))
    assert outcome[0] == "refused"
    assert outcome[1] in ("InvalidSignature", "WrongSigner")
    assert outcome[1] == "InvalidSignature" or kind.startswith("noise")


@pytest.mark.parametrize("change", [{"chain_id": 2}, {"contract": bytes(20)}, {"name": "deserve"}, {"version": "2"}])
def test_a_signature_for_another_ledger_is_a_strangers(both, change):
    for key in (SESSION_KEY, KEYS[0]):
        signature = sign(key, replace(both.domain, **change), VOUCHER)
        assert both.submit(ACCOUNTS[1], calls.RedeemVoucher(VOUCHER, signature)) == ("refused", "WrongSigner")


def reasons_of_the_machine() -> set[str]:
    """Every name that `require` or `Refused` is given in the machine's modules."""
    found = set()
    for path in Path(machine.__file__).parent.glob("*.py"):
        if path.stem in ("journal", "tip", "ledger", "remote", "journal_http"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("require", "Refused")
            ):
                last = node.args[-1]
                if isinstance(last, ast.Constant):
                    found.add(last.value)
    return found


def test_both_know_the_same_reasons():
    declared = {entry["name"] for entry in load_artifact("DeserveLedger").abi if entry["type"] == "error"}
    assert reasons_of_the_machine() - ONLY_EMBEDDED == declared - ONLY_ON_CHAIN
