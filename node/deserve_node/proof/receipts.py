"""Receipts that this node has signed, on disk before anybody sees them, until the coordinator says it has stored them.

Two receipts of different content for one work id are proof of fraud and cost the stake. So nothing is signed but in the
transaction that writes it down, and what was written down for a work id is all that is ever signed for it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deserve_ledger.commitments import root_of
from deserve_ledger.eip712 import Domain, sign
from deserve_ledger.messages import WorkReceipt
from deserve_network.control_messages import CONTROL
from deserve_network.money_messages import MAX_RECEIPTS, Receipts, SignedReceipt
from deserve_node.proof.committer import ClosedWork
from deserve_node.proof.errors import ContradictionError

__all__ = ["KEPT_S", "ReceiptBook", "ReceiptKey", "Signer"]

KEPT_S = 30 * 86_400
"""How long what was signed and is stored elsewhere is kept: longer than any ring's epoch can come back."""
_PRUNE_EVERY = 256
"""Times that something was signed."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
    report INTEGER PRIMARY KEY AUTOINCREMENT,
    body BLOB NOT NULL,
    at_s INTEGER NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS signed (
    work_id BLOB PRIMARY KEY,
    content BLOB NOT NULL,
    previous_print_root BLOB NOT NULL,
    report INTEGER NOT NULL REFERENCES reports(report)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reports_unstored ON reports(report) WHERE stored = 0;
CREATE INDEX IF NOT EXISTS signed_report ON signed(report);
"""


class Signer(Protocol):
    """The node's receipt key, for one ledger: `ReceiptKey`."""

    @property
    def node_id(self) -> bytes: ...

    def sign(self, receipt: WorkReceipt) -> bytes:
        """65 bytes; see `deserve_ledger.eip712.sign`."""


@dataclass(frozen=True, slots=True)
class ReceiptKey:
    """A secp256k1 key of 32 bytes, and where its signatures hold."""

    key: bytes
    domain: Domain
    node_id: bytes

    def sign(self, receipt: WorkReceipt) -> bytes:
        return sign(self.key, self.domain, receipt)


class ReceiptBook:
    """A SQLite file of one node. Methods may be called from any thread and block while they write."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        # SQLite gives its journal files the mode of the database file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._clock = clock
        self._since_pruned = 0
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(_SCHEMA)
        self._prune()

    def sign(self, works: Sequence[ClosedWork], signer: Signer) -> list[tuple[ClosedWork, SignedReceipt]]:
        """Sign for work, and return the new receipts once they are on disk.

        Work that was signed for before, just so, is not signed again. Raises `ContradictionError` for work that was
        signed for otherwise; then nothing is signed at all.
        """
        receipts = [_receipt(work, signer.node_id) for work in works]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                signed = self._write(works, receipts, signer)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        self._since_pruned += 1
        if self._since_pruned >= _PRUNE_EVERY:
            self._prune()
        return signed

    def unstored(self, after: int = 0) -> list[Receipts]:
        """Reports beyond number `after` that the coordinator has not stored, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT body FROM reports WHERE stored = 0 AND report > ? ORDER BY report LIMIT 64", (after,)
            ).fetchall()
        return [CONTROL.decode(body) for (body,) in rows]

    def stored(self, report: int) -> None:
        """The coordinator has it durably."""
        with self._lock:
            self._connection.execute("UPDATE reports SET stored = 1 WHERE report = ?", (report,))

    def previous_print_root(self, work_id: bytes) -> bytes | None:
        """What the stage before said of its fingerprints when this work was signed for; None where it was not."""
        with self._lock:
            found = self._connection.execute(
                "SELECT previous_print_root FROM signed WHERE work_id = ?", (work_id,)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def close(self) -> None:
        """Safe to repeat."""
        with self._lock:
            self._connection.close()

    def _write(
        self, works: Sequence[ClosedWork], receipts: Sequence[WorkReceipt], signer: Signer
    ) -> list[tuple[ClosedWork, SignedReceipt]]:
        fresh = [pair for pair in zip(works, receipts, strict=True) if not self._signed(pair[1])]
        written: list[tuple[ClosedWork, SignedReceipt]] = []
        for first in range(0, len(fresh), MAX_RECEIPTS):
            part = fresh[first : first + MAX_RECEIPTS]
            signed = tuple(_signed(work, receipt, signer.sign(receipt)) for work, receipt in part)
            report = self._connection.execute(
                "INSERT INTO reports (body, at_s) VALUES (x'', ?)", (int(self._clock()),)
            ).lastrowid
            assert report is not None
            self._connection.execute(
                "UPDATE reports SET body = ? WHERE report = ?", (CONTROL.encode(Receipts(report, signed)), report)
            )
            self._connection.executemany(
                "INSERT INTO signed (work_id, content, previous_print_root, report) VALUES (?, ?, ?, ?)",
                [(receipt.work_id, _content(receipt), work.previous_print_root, report) for work, receipt in part],
            )
            written += zip((work for work, _ in part), signed, strict=True)
        return written

    def _signed(self, receipt: WorkReceipt) -> bool:
        found = self._connection.execute("SELECT content FROM signed WHERE work_id = ?", (receipt.work_id,)).fetchone()
        if found is None:
            return False
        if bytes(found[0]) != _content(receipt):
            raise ContradictionError(f"work {receipt.work_id.hex()} was signed for with other content before")
        return True

    def _prune(self) -> None:
        self._since_pruned = 0
        before = (int(self._clock()) - KEPT_S,)
        old = "SELECT report FROM reports WHERE stored = 1 AND at_s < ?"
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(f"DELETE FROM signed WHERE report IN ({old})", before)
            self._connection.execute("DELETE FROM reports WHERE stored = 1 AND at_s < ?", before)
            self._connection.execute("COMMIT")


def _receipt(work: ClosedWork, node_id: bytes) -> WorkReceipt:
    booked = work.booked
    return WorkReceipt(
        work.work.work_id,
        node_id,
        root_of(booked.came.root, work.previous_print_root),
        root_of(booked.left.root, work.print_root),
        booked.tokens * work.position.layers,
    )


def _signed(work: ClosedWork, receipt: WorkReceipt, signature: bytes) -> SignedReceipt:
    position, booked = work.position, work.booked
    keys = [row.label.row for row in booked.rows]
    return SignedReceipt(
        job_id=booked.booking.job_id,
        ring=position.ring,
        epoch=position.epoch,
        lease=booked.booking.lease,
        attempt=booked.booking.attempt,
        stage=position.stage,
        chunk=work.chunk,
        node_id=receipt.node_id,
        in_root=receipt.in_root,
        out_root=receipt.out_root,
        units=receipt.units,
        signature=signature,
        wire_root=booked.left.root,
        print_root=work.print_root,
        prefill_units=booked.prefill_tokens * position.layers,
        first_row=min(keys),
        last_row=max(keys),
        rows=len(keys),
    )


def _content(receipt: WorkReceipt) -> bytes:
    return b"".join((receipt.node_id, receipt.in_root, receipt.out_root, receipt.units.to_bytes(16, "big")))
