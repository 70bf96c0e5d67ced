"""Transactions that an account means to make, on disk before they are sent. No network.

An entry holds a nonce and one or more signed transactions for it, each dearer than the one before. Whatever is sent
again is one of these, so of one entry at most one transaction can ever take effect. An entry is *open* until the fate
of its nonce is final, then *settled*, and *delivered* once the caller has been told; one that an earlier run left
before that is *left over*, and whoever asks for the same call again gets it instead of a second one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from deserve_ledger.errors import OutboxHeld

__all__ = ["Attempt", "Entry", "Outbox"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    network BLOB NOT NULL,
    account BLOB NOT NULL,
    recipient BLOB NOT NULL,
    data BLOB NOT NULL,
    gas INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'delivered')),
    settled_by BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS undelivered ON entries (state) WHERE state != 'delivered';
CREATE TABLE IF NOT EXISTS attempts (
    hash BLOB PRIMARY KEY,
    entry INTEGER NOT NULL REFERENCES entries,
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    tip_wei INTEGER NOT NULL,
    most_wei INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempts_by_entry ON attempts (entry);
"""
_ENTRY = "id, recipient, data, gas, nonce, state, settled_by"
_BUSY_S = 10


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed transaction; `tip_wei` and `most_wei` are its fees for one gas (EIP-1559)."""

    hash: bytes
    nonce: int
    raw: bytes
    tip_wei: int
    most_wei: int


@dataclass(frozen=True, slots=True)
class Entry:
    id: int
    recipient: bytes
    """20 bytes; empty where a contract is created."""
    data: bytes
    gas: int
    nonce: int
    state: str
    settled_by: bytes | None
    """Hash of the transaction that took the nonce for good."""


class Outbox:
    """Of one account on the chain whose first block has the hash `network`. One process holds it.

    `path` None keeps it in memory, for who only asks. Chains share a file without harm, also where a development chain
    was begun anew under the same number.
    """

    def __init__(self, path: Path | None, network: bytes, account: bytes) -> None:
        self._whose = (network, account)
        self._lock = None if path is None else _hold(path)
        try:
            self._database = sqlite3.connect(path or ":memory:", timeout=_BUSY_S)
            self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + _SCHEMA)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        self._database.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def intend(self, recipient: bytes, data: bytes, gas: int, first: Attempt) -> Entry:
        """A new open entry with its first transaction, on disk when this returns."""
        with self._database:
            made = self._database.execute(
                "INSERT INTO entries (network, account, recipient, data, gas, nonce, state)"
                " VALUES (?, ?, ?, ?, ?, ?, 'open')",
                (*self._whose, recipient, data, gas, first.nonce),
            )
            entry = int(made.lastrowid or 0)
            self._add(entry, first)
        return self._entry(entry)

    def add(self, entry: Entry, attempt: Attempt) -> Entry:
        """A further transaction for an open entry, on disk when this returns.

        With another nonce it is for an entry whose nonce somebody else has used up for good.
        """
        with self._database:
            self._database.execute("UPDATE entries SET nonce = ? WHERE id = ?", (attempt.nonce, entry.id))
            self._add(entry.id, attempt)
        return self._entry(entry.id)

    def settle(self, entry: Entry, transaction: bytes) -> None:
        with self._database:
            self._database.execute(
                "UPDATE entries SET state = 'settled', settled_by = ? WHERE id = ?", (transaction, entry.id)
            )

    def deliver(self, entry: Entry) -> None:
        with self._database:
            self._database.execute("UPDATE entries SET state = 'delivered' WHERE id = ?", (entry.id,))

    def attempts(self, entry: Entry) -> list[Attempt]:
        """In the order in which they were made."""
        rows = self._database.execute(
            "SELECT hash, nonce, raw, tip_wei, most_wei FROM attempts WHERE entry = ? ORDER BY rowid", (entry.id,)
        )
        return [Attempt(*row) for row in rows]

    def newest_between(self, first: int, below: int) -> list[Attempt]:
        """For each nonce of ours from `first` on, the dearest transaction, in order of nonce."""
        rows = self._database.execute(
            "SELECT hash, attempts.nonce, raw, tip_wei, max(most_wei) FROM attempts JOIN entries ON entries.id = entry"
            " WHERE network = ? AND account = ? AND attempts.nonce >= ? AND attempts.nonce < ?"
            " GROUP BY attempts.nonce ORDER BY attempts.nonce",
            (*self._whose, first, below),
        )
        return [Attempt(*row) for row in rows]

    def undelivered(self) -> list[Entry]:
        """Open and settled ones, in order of nonce."""
        rows = self._database.execute(
            f"SELECT {_ENTRY} FROM entries WHERE state != 'delivered' AND network = ? AND account = ? ORDER BY nonce",
            self._whose,
        )
        return [Entry(*row) for row in rows]

    def next_nonce(self) -> int:
        """Above every nonce of ours."""
        row = self._database.execute(
            "SELECT max(nonce) FROM entries WHERE network = ? AND account = ?", self._whose
        ).fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def _add(self, entry: int, attempt: Attempt) -> None:
        self._database.execute(
            "INSERT INTO attempts (entry, hash, nonce, raw, tip_wei, most_wei) VALUES (?, ?, ?, ?, ?, ?)",
            (entry, attempt.hash, attempt.nonce, attempt.raw, attempt.tip_wei, attempt.most_wei),
        )

    def _entry(self, entry: int) -> Entry:
        return Entry(*self._database.execute(f"SELECT {_ENTRY} FROM entries WHERE id = ?", (entry,)).fetchone())


def _hold(path: Path) -> int:
    """Create `path` for its owner alone and lock it beside. Raises `OutboxHeld`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutboxHeld(f"{path}: another process makes transactions with this account; one can at a time") from None
    return descriptor
