"""A node's money on disk: credits, proofs of fraud, and work that no credit covers yet. SQLite, fsynced at each commit.

A credit is worth what its signature is worth, so it is here before the node computes on; a receipt is here before it is
sent. Everything is kept per *debtor*, a coordinator's account on one ledger, for a node that changes coordinators.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deserve_ledger.credit_file import SignedCredit
from deserve_ledger.eip712 import Domain
from deserve_ledger.messages import Credit
from deserve_node.wallet.errors import WalletUnusable
from deserve_node.wallet.exposure import Worked

__all__ = ["Debtor", "Earned", "WalletStore"]

KEPT_CREDITS = 10_000
"""Of one debtor, the newest: what a second content under an old number is compared with."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS debtors (
    id INTEGER PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    contract BLOB NOT NULL,
    coordinator BLOB NOT NULL,
    node_id BLOB NOT NULL,
    micros TEXT NOT NULL DEFAULT '0',         -- worth of all receipts that were signed, millionths of a base unit
    prefill_units TEXT NOT NULL DEFAULT '0',
    decode_units TEXT NOT NULL DEFAULT '0',
    held TEXT NOT NULL DEFAULT '0',           -- base units, as the newest credit says
    UNIQUE (chain_id, contract, coordinator, node_id)
);
CREATE TABLE IF NOT EXISTS credits (
    debtor INTEGER NOT NULL REFERENCES debtors (id),
    seq INTEGER NOT NULL,
    cumulative TEXT NOT NULL,
    receipts_root BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (debtor, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frauds (           -- each against the credit of the same number
    debtor INTEGER NOT NULL REFERENCES debtors (id),
    seq INTEGER NOT NULL,
    cumulative TEXT NOT NULL,
    receipts_root BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (debtor, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS works (            -- that no credit covers
    debtor INTEGER NOT NULL REFERENCES debtors (id),
    work_id BLOB NOT NULL,
    ring TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    micros TEXT NOT NULL,
    PRIMARY KEY (debtor, work_id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Debtor:
    """Who owes: `coordinator`'s account on the ledger that `domain` is of; and to which of our node ids."""

    domain: Domain
    coordinator: bytes
    node_id: bytes


@dataclass(frozen=True, slots=True)
class Earned:
    """Worth of all receipts so far, at the prices of their time."""

    micros: int = 0
    prefill_units: int = 0
    decode_units: int = 0


class WalletStore:
    """One file, one connection, used by one thread at a time. Raises `WalletUnusable` where the disk does not obey."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with self._guarded():
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise WalletUnusable(f"{self._file}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guarded():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()

    def debtors(self) -> list[Debtor]:
        with self._guarded():
            rows = self._database.execute(
                "SELECT chain_id, contract, coordinator, node_id FROM debtors ORDER BY id"
            ).fetchall()
        return [Debtor(Domain(chain_id, contract), coordinator, node) for chain_id, contract, coordinator, node in rows]

    def _id(self, debtor: Debtor) -> int:
        key = (debtor.domain.chain_id, debtor.domain.contract, debtor.coordinator, debtor.node_id)
        self._database.execute(
            "INSERT OR IGNORE INTO debtors (chain_id, contract, coordinator, node_id) VALUES (?, ?, ?, ?)", key
        )
        row = self._database.execute(
            "SELECT id FROM debtors WHERE (chain_id, contract, coordinator, node_id) = (?, ?, ?, ?)", key
        ).fetchone()
        return int(row[0])

    def newest(self, debtor: Debtor) -> SignedCredit | None:
        """The credit that says the most: one is enough to collect."""
        return self._credit(debtor, "credits", "ORDER BY seq DESC LIMIT 1", ())

    def credit(self, debtor: Debtor, seq: int) -> SignedCredit | None:
        return self._credit(debtor, "credits", "AND seq = ?", (seq,))

    def fraud(self, debtor: Debtor) -> tuple[SignedCredit, SignedCredit] | None:
        """Two contents that the debtor signed under one number, where there are such."""
        second = self._credit(debtor, "frauds", "ORDER BY seq LIMIT 1", ())
        first = None if second is None else self.credit(debtor, second.credit.seq)
        return None if first is None or second is None else (first, second)

    def _credit(self, debtor: Debtor, table: str, where: str, values: tuple[int, ...]) -> SignedCredit | None:
        with self._guarded():
            row = self._database.execute(
                f"SELECT seq, cumulative, receipts_root, signature FROM {table} WHERE debtor = ? {where}",
                (self._id(debtor), *values),
            ).fetchone()
        if row is None:
            return None
        seq, cumulative, root, signature = row
        return SignedCredit(Credit(debtor.coordinator, debtor.node_id, int(cumulative), seq, root), signature)

    def keep_credit(self, debtor: Debtor, signed: SignedCredit, held: int, covers: Sequence[bytes]) -> None:
        """Durably, with what it covers; safe to repeat."""
        with self._transaction() as database:
            number = self._id(debtor)
            database.execute("INSERT OR IGNORE INTO credits VALUES (?, ?, ?, ?, ?)", _columns(number, signed))
            database.execute(
                "UPDATE debtors SET held = ? WHERE id = ? AND ? >= (SELECT max(seq) FROM credits WHERE debtor = ?)",
                (str(held), number, signed.credit.seq, number),
            )
            database.executemany("DELETE FROM works WHERE debtor = ? AND work_id = ?", [(number, w) for w in covers])
            database.execute(
                "DELETE FROM credits WHERE debtor = ? AND seq <= ?"
                " AND seq NOT IN (SELECT seq FROM frauds WHERE frauds.debtor = credits.debtor)",
                (number, signed.credit.seq - KEPT_CREDITS),
            )

    def keep_fraud(self, debtor: Debtor, signed: SignedCredit) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO frauds VALUES (?, ?, ?, ?, ?)", _columns(self._id(debtor), signed))

    def keep_works(self, debtor: Debtor, works: Iterable[Worked], earned: Earned) -> None:
        """Receipts that were signed, and what they are worth together; not to be repeated."""
        with self._transaction() as database:
            number = self._id(debtor)
            database.executemany(
                "INSERT OR IGNORE INTO works VALUES (?, ?, ?, ?, ?, ?)",
                [(number, work.work_id, *work.chunk, str(work.micros)) for work in works],
            )
            total = self._earned(number)
            database.execute(
                "UPDATE debtors SET micros = ?, prefill_units = ?, decode_units = ? WHERE id = ?",
                (
                    str(total.micros + earned.micros),
                    str(total.prefill_units + earned.prefill_units),
                    str(total.decode_units + earned.decode_units),
                    number,
                ),
            )

    def works(self, debtor: Debtor) -> list[Worked]:
        """What no credit covers, without its rows."""
        with self._guarded():
            rows = self._database.execute(
                "SELECT work_id, ring, epoch, chunk, micros FROM works WHERE debtor = ?", (self._id(debtor),)
            ).fetchall()
        return [Worked(work_id, (ring, epoch, chunk), int(micros)) for work_id, ring, epoch, chunk, micros in rows]

    def earned(self, debtor: Debtor) -> Earned:
        with self._guarded():
            return self._earned(self._id(debtor))

    def _earned(self, number: int) -> Earned:
        row = self._database.execute(
            "SELECT micros, prefill_units, decode_units FROM debtors WHERE id = ?", (number,)
        ).fetchone()
        return Earned(*map(int, row))

    def held(self, debtor: Debtor) -> int:
        with self._guarded():
            row = self._database.execute("SELECT held FROM debtors WHERE id = ?", (self._id(debtor),)).fetchone()
        return int(row[0])


def _columns(number: int, signed: SignedCredit) -> tuple[int, int, str, bytes, bytes]:
    credit = signed.credit
    return number, credit.seq, str(credit.cumulative), credit.receipts_root, signed.signature
