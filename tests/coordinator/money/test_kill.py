"""A coordinator that is killed between writing, signing and sending a credit signs no two contents under one seq."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import test_bills as bills

from deserve_coordinator.money.crediting import Crediting
from deserve_coordinator.store import receipt_queries, row_queries
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_ledger.eip712 import Domain
from deserve_ledger.keystore import Key
from deserve_network.money_messages import CreditNote

DOMAIN = Domain(31337, b"\x11" * 20)
KEY = Key.of(b"\x07" * 32)
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from deserve_coordinator.money import crediting
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_ledger.eip712 import Domain
from deserve_ledger.keystore import Key

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

sent = die
if sys.argv[2] == "before it is signed":
    crediting.sign = die
store = SqliteStore(Path(sys.argv[1]))
key = Key.of(bytes([7]) * 32)
asyncio.run(crediting.Crediting(store.money, Domain(31337, bytes([17]) * 20), key, sent).step())
"""


def deliver(c: sqlite3.Connection, chunk: int) -> None:
    """One more row is delivered, shown by receipts and paid for."""
    record = bills.lease(c, "x/1", 1)
    row_queries.finish_rows(c, "x/1", [bills.finished(record)])
    receipt_queries.add_receipts(c, bills.receipts("x/1", record.lease, 8, chunk))
    bills.pay(c, 10**6 + chunk)


def connection(path: Path) -> sqlite3.Connection:
    c = sqlite3.connect(path, isolation_level=None)
    c.row_factory = sqlite3.Row
    return c


@pytest.mark.parametrize("moment", ["before it is signed", "before it is sent"])
def test_no_seq_is_signed_for_two_contents(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "coordinator.db"
    SqliteStore(path).close()
    c = connection(path)
    bills.fill_store(c, rows=4)
    deliver(c, 0)
    c.close()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    # The killed process may have left the credit of only one of the two nodes; more is delivered before anybody signs.
    c = connection(path)
    (written,) = c.execute("SELECT node_id, seq, cumulative, receipts_root, sent FROM credits").fetchall()
    deliver(c, 1)
    c.close()
    notes: list[CreditNote] = []
    store = SqliteStore(path)

    def send(node_id: bytes, note: CreditNote) -> bool:
        notes.append(note)
        return True

    async def restart() -> None:
        crediting = Crediting(store.money, DOMAIN, KEY, send)
        await crediting.step()
        await crediting.greet(written["node_id"])

    asyncio.run(restart())
    store.close()
    by_seq: dict[int, set[CreditNote]] = {}
    for note in notes:
        if note.node_id == written["node_id"]:
            by_seq.setdefault(note.seq, set()).add(note)
    assert sorted(by_seq) == [1, 2]
    for seq, made in by_seq.items():
        assert len({(n.cumulative, n.receipts_root, n.signature) for n in made}) == 1, seq
    first = next(iter(by_seq[1]))
    assert (first.cumulative, first.receipts_root) == (int(written["cumulative"]), written["receipts_root"])
    assert not written["sent"]
