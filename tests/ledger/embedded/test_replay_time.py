"""How long a journal of 100,000 entries takes to open: with its snapshot, and replayed from the first entry on.

`pytest -m soak -s --timeout 3600 tests/ledger/embedded/test_replay_time.py` prints the figures of docs/ledger.md, in
seconds of processor time. Writing the journal takes some minutes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest
from eth_hash.auto import keccak
from ledger_parties import ACCOUNTS, KEYS, TERMS, Signatures, address_of, key_of, node_of, peer_key, receipt_key

from deserve_ledger.calls import ClaimCredit, Deposit, OpenJob, RedeemVoucher, RegisterNode, Reserve
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.entries import sign_call
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.identifiers import job_id

ENTRIES = 100_000


class Writer:
    """Signs for whoever, and appends without waiting for the disk: only reading is measured."""

    def __init__(self, path):
        self.journal = Journal(path, key_of("owner"), TERMS, clock=lambda: 1_800_000_000.0)
        self.journal._tables._connection.execute("PRAGMA synchronous=OFF")
        self.nonces = {}

    def submit(self, key, call):
        sender = address_of(key)
        nonce = self.nonces.get(sender, 0)
        self.journal.append(sign_call(key, sender, self.journal.state.domain, nonce, 1_800_000_300, call))
        self.nonces[sender] = nonce + 1


@pytest.mark.soak
def test_a_hundred_thousand_entries_open_in_seconds(tmp_path):
    writer = Writer(tmp_path / "journal")
    payer, coordinator, operator = KEYS[0], KEYS[1], KEYS[2]
    writer.submit(key_of("owner"), Issue(ACCOUNTS[0], 10**12))
    writer.submit(key_of("owner"), Issue(ACCOUNTS[1], 10**12))
    writer.submit(key_of("owner"), Issue(ACCOUNTS[2], 10**12))
    for key in (payer, coordinator, operator):
        writer.submit(key, Deposit(10**11))
    signed = Signatures(writer.journal.state.domain)
    bound = signed.bind(2, 0, 7, receipt_key(0))
    writer.submit(operator, RegisterNode(peer_key(0), address_of(receipt_key(0)), 1000, 7, bound))
    for number in range(ENTRIES // 4):
        salt = keccak(b"job %d" % number)
        writer.submit(payer, OpenJob(salt, ACCOUNTS[1], ACCOUNTS[0], 100, 1_800_000_900))
        voucher = signed.voucher(job_id(ACCOUNTS[0], salt), 90, 1, payer, True)
        writer.submit(coordinator, RedeemVoucher(*voucher))
        writer.submit(coordinator, Reserve(node_of(2), 90))
        writer.submit(operator, ClaimCredit(*signed.credit(1, node_of(2), 90 * (number + 1), number, coordinator)))
    tip = writer.journal.tip
    writer.journal.close()

    seconds = {}
    for how in ("with a snapshot", "without"):
        begun = time.process_time()
        reopened = Journal(tmp_path / "journal", key_of("owner"), TERMS, clock=lambda: 1_800_000_000.0)
        seconds[how] = time.process_time() - begun
        assert reopened.tip == tip
        reopened.close()
        with contextlib.closing(sqlite3.connect(tmp_path / "journal", isolation_level=None)) as connection:
            connection.execute("DELETE FROM snapshots")
    print({how: round(took, 1) for how, took in seconds.items()}, "for", tip.head.length, "entries")
    assert seconds["with a snapshot"] < 30
