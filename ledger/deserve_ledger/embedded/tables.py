"""The journal's SQLite file: entries, the events that they caused, snapshots of the tip. Knows none of the rules.

Locked for one process as long as it is open. `append` returns when the entry is on disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from deserve_ledger.embedded.entries import Entry, SignedCall
from deserve_ledger.embedded.plain import from_plain, to_plain
from deserve_ledger.errors import InvalidField, JournalUnusable, RolledBack
from deserve_ledger.records import Event

__all__ = ["JournalTables"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS genesis (hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    time_s INTEGER NOT NULL,
    entropy BLOB NOT NULL,
    sender BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    expires_s INTEGER NOT NULL,
    call BLOB NOT NULL,
    signature BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS entries_by_sender ON entries (sender, nonce);
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    fields TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS snapshots (
    number INTEGER PRIMARY KEY,
    tip BLOB NOT NULL
) STRICT;
"""
_FIELDS = dict[str, int | bytes | bool]
_COLUMNS = "number, time_s, entropy, sender, nonce, expires_s, call, signature"


def _entry(row: tuple[int, int, bytes, bytes, int, int, bytes, bytes]) -> Entry:
    number, time_s, entropy, sender, nonce, expires_s, call, signature = row
    return Entry(number, time_s, entropy, SignedCall(sender, nonce, expires_s, call, signature))


class JournalTables:
    """Opens `path`, creating it (0600). Raises `JournalUnusable` where another process has it or it is no journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._broken = ""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as taken:
            self._connection.close()
            raise JournalUnusable(f"{path}: {taken}; is another process using this journal?") from taken
        except sqlite3.DatabaseError as damaged:
            self._connection.close()
            raise RolledBack(f"{path}: {damaged}") from damaged

    def bind(self, genesis: bytes) -> None:
        """Make a new file this journal's. Raises `InvalidField` where it belongs to another owner or other terms."""
        row = self._connection.execute("SELECT hash FROM genesis").fetchone()
        if row is None:
            self._connection.execute("INSERT INTO genesis VALUES (?)", (genesis,))
        elif row[0] != genesis:
            raise InvalidField("terms", f"{self._path} was begun with other terms or by another owner")

    def walk(self) -> Iterator[tuple[Entry, bytes]]:
        """Every entry with its hash, in order. Raises `RolledBack` where SQLite cannot read its file."""
        try:
            for row in self._connection.execute(f"SELECT {_COLUMNS}, hash FROM entries ORDER BY number"):
                yield _entry(row[:-1]), row[-1]
        except sqlite3.DatabaseError as damaged:
            raise RolledBack(f"{self._path}: {damaged}") from damaged

    def append(self, entry: Entry, entry_hash: bytes, events: Sequence[Event]) -> None:
        """All of it, durably. Raises `JournalUnusable` where that is uncertain; opening the file again tells."""
        if self._broken:
            raise JournalUnusable(
                f"{self._path} could not be written before and has to be opened again: {self._broken}"
            )
        try:
            self._append(entry, entry_hash, events)
        except sqlite3.Error as error:
            self._broken = str(error)
            raise JournalUnusable(f"{self._path} cannot be written: {error}") from error

    def _append(self, entry: Entry, entry_hash: bytes, events: Sequence[Event]) -> None:
        signed = entry.signed
        with _Transaction(self._connection):
            self._connection.execute(
                f"INSERT INTO entries ({_COLUMNS}, hash) VALUES (?,?,?,?,?,?,?,?,?)",
                (entry.number, entry.time_s, entry.entropy, signed.sender, signed.nonce, signed.expires_s,
                 signed.call, signed.signature, entry_hash),
            )  # fmt: skip
            self._connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?)",
                [(event.position, event.name, json.dumps(to_plain(event.fields))) for event in events],
            )

    def entries(self, after: int, limit: int) -> list[Entry]:
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        )
        return [_entry(row) for row in rows]

    def hash_of(self, number: int) -> bytes:
        """Raises `InvalidField` where there is no such entry."""
        row = self._connection.execute("SELECT hash FROM entries WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise InvalidField("number", f"there is no entry {number}")
        return bytes(row[0])

    def entry_of(self, sender: bytes, nonce: int) -> Entry | None:
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE sender = ? AND nonce = ?", (sender, nonce)
        ).fetchone()
        return None if row is None else _entry(row)

    def events(self, after: int, limit: int) -> list[Event]:
        rows = self._connection.execute(
            "SELECT position, name, fields FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
        )
        return [Event(position, name, from_plain(_FIELDS, json.loads(fields))) for position, name, fields in rows]

    def newest_snapshot(self) -> tuple[int, bytes] | None:
        """(number of the entry, encoded tip after it)."""
        row = self._connection.execute("SELECT number, tip FROM snapshots").fetchone()
        return None if row is None else (row[0], row[1])

    def keep_snapshot(self, number: int, tip: bytes) -> None:
        with _Transaction(self._connection):
            self._connection.execute("DELETE FROM snapshots")
            self._connection.execute("INSERT INTO snapshots VALUES (?, ?)", (number, tip))

    def close(self) -> None:
        self._connection.close()


class _Transaction:
    """BEGIN at entry; COMMIT, which waits for the disk, at exit, or ROLLBACK where something was raised."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
