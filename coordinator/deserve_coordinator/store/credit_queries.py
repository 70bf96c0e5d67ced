"""SQL over credits: what nodes are owed, under which seq, and the epochs that sum it up for the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from deserve_coordinator.money.tariff import whole_earning
from deserve_coordinator.store.money_records import CreditRecord, EpochRecord
from deserve_ledger.merkle import MerkleTree, claim_leaf, leaf_hash

__all__ = [
    "credited",
    "epoch",
    "held",
    "mark_posted",
    "mark_sent",
    "newest_epoch",
    "nodes_due",
    "open_epoch",
    "unsent_credits",
    "write_credit",
]

_AT_ONCE = 4096
"""Earnings and receipts that one credit takes: a note with their ids has to fit a message."""
_SENT_AGAIN = 8
"""Newest credits that a node is sent whenever it comes: the connection may have broken with them under way."""
_UNSENT = 256


def nodes_due(c: sqlite3.Connection) -> list[bytes]:
    """Nodes that may have something new to hear: receipts in no credit, or earnings that are paid for and decided."""
    found = c.execute(
        "SELECT node_id FROM receipts WHERE credit IS NULL UNION SELECT node_id FROM earnings WHERE state = 'released'"
    )
    return [row["node_id"] for row in found]


def _credit(c: sqlite3.Connection, row: sqlite3.Row) -> CreditRecord:
    covers = c.execute(
        "SELECT work_id FROM receipts WHERE node_id = ? AND credit = ? ORDER BY position", (row["node_id"], row["seq"])
    )
    works = tuple(receipt["work_id"] for receipt in covers)
    node_id = row["node_id"]
    return CreditRecord(node_id, row["seq"], int(row["cumulative"]), row["receipts_root"], works, _held(c, node_id))


def unsent_credits(c: sqlite3.Connection, node_id: bytes) -> list[CreditRecord]:
    """What a node that has just come may not have: the newest few, and any that no session of it was handed."""
    found = c.execute(
        "SELECT * FROM credits WHERE node_id = ? AND (NOT sent OR seq >"
        " (SELECT max(seq) FROM credits WHERE node_id = ?) - ?) ORDER BY seq DESC LIMIT ?",
        (node_id, node_id, _SENT_AGAIN, _UNSENT),
    )
    return [_credit(c, row) for row in reversed(found.fetchall())]


def mark_sent(c: sqlite3.Connection, node_id: bytes, seq: int) -> None:
    c.execute("UPDATE credits SET sent = 1 WHERE node_id = ? AND seq = ?", (node_id, seq))


def write_credit(c: sqlite3.Connection, node_id: bytes) -> CreditRecord | None:
    """The node's next credit: over all of its earnings that are released and that sound receipts show, and over those
    receipts whose rows have ended. None where there are neither.

    Content and seq are on disk when the caller gets them, so that whatever happens to it no seq has two contents.
    """
    gain = _collect(c, node_id)
    works = _settled(c, node_id)
    if gain == 0 and not works:
        return None
    before = c.execute(
        "SELECT seq, cumulative FROM credits WHERE node_id = ? ORDER BY seq DESC LIMIT 1", (node_id,)
    ).fetchone()
    seq, cumulative = (1, gain) if before is None else (before["seq"] + 1, int(before["cumulative"]) + gain)
    c.executemany("UPDATE receipts SET credit = ? WHERE position = ?", [(seq, position) for position, _ in works])
    root = MerkleTree([leaf_hash(work_id) for _, work_id in works]).root
    c.execute("INSERT INTO credits VALUES (?, ?, ?, ?, 0)", (node_id, seq, str(cumulative), root))
    return CreditRecord(node_id, seq, cumulative, root, tuple(work_id for _, work_id in works), _held(c, node_id))


def _collect(c: sqlite3.Connection, node_id: bytes) -> int:
    """Take released earnings as far as receipts show them; returns the whole base units that they add."""
    gain = 0
    room: dict[tuple[bytes, int], int] = {}
    candidates = c.execute(
        "SELECT e.id, e.job_id, e.lease, e.micros, e.units, s.receipted - s.credited AS room FROM earnings e"
        " JOIN shown_work s ON s.job_id = e.job_id AND s.lease = e.lease AND s.node_id = e.node_id"
        " WHERE e.node_id = ? AND e.state = 'released' AND s.receipted - s.credited >= e.units ORDER BY e.id LIMIT ?",
        (node_id, _AT_ONCE),
    )
    for row in candidates.fetchall():
        work = (row["job_id"], row["lease"])
        left = room.get(work, row["room"]) - row["units"]
        if left < 0:
            continue
        room[work] = left
        gain += _earn(c, row["job_id"], node_id, int(row["micros"]))
        c.execute("UPDATE earnings SET state = 'credited' WHERE id = ?", (row["id"],))
        c.execute(
            "UPDATE shown_work SET credited = credited + ? WHERE job_id = ? AND lease = ? AND node_id = ?",
            (row["units"], *work, node_id),
        )
    return gain


def _settled(c: sqlite3.Connection, node_id: bytes) -> list[tuple[int, bytes]]:
    """(position, work id) of sound receipts that no credit covers and whose rows have ended.

    A receipt names its first and last row and how many there are. It counts as over when none between the two is out
    under its lease, or as many have ended: a row that waits for its turn must not hold up what is done.
    """
    found = c.execute(
        "SELECT p.position, p.work_id FROM receipts p WHERE p.node_id = ? AND p.credit IS NULL AND p.chained = 'sound'"
        " AND (NOT EXISTS (SELECT 1 FROM rows r WHERE r.key BETWEEN p.first_row AND p.last_row AND r.fence = p.lease"
        "  AND r.state = 'leased')"
        " OR (SELECT count(*) FROM rows r WHERE r.key BETWEEN p.first_row AND p.last_row AND r.fence = p.lease"
        "  AND r.state = 'done') >= p.rows)"
        " ORDER BY p.position LIMIT ?",
        (node_id, _AT_ONCE),
    )
    return [(row["position"], row["work_id"]) for row in found]


def _held(c: sqlite3.Connection, node_id: bytes) -> int:
    """Base units that a node has earned and that are in no credit yet."""
    found = c.execute("SELECT micros FROM earnings WHERE node_id = ? AND state IN ('held', 'released')", (node_id,))
    return whole_earning(sum(int(row["micros"]) for row in found))


def _earn(c: sqlite3.Connection, job_id: bytes, node_id: bytes, micros: int) -> int:
    """Add to what the node earned of a job; returns the whole base units by which that grew."""
    row = c.execute("SELECT micros FROM earned WHERE job_id = ? AND node_id = ?", (job_id, node_id)).fetchone()
    before = 0 if row is None else int(row["micros"])
    c.execute(
        "INSERT INTO earned VALUES (?, ?, ?) ON CONFLICT (job_id, node_id) DO UPDATE SET micros = excluded.micros",
        (job_id, node_id, str(before + micros)),
    )
    return whole_earning(before + micros) - whole_earning(before)


def credited(c: sqlite3.Connection) -> dict[bytes, int]:
    """What each node was credited since the beginning."""
    found = c.execute(
        "SELECT node_id, cumulative FROM credits k WHERE seq ="
        " (SELECT max(seq) FROM credits WHERE node_id = k.node_id) ORDER BY node_id"
    )
    return {row["node_id"]: int(row["cumulative"]) for row in found}


def held(c: sqlite3.Connection) -> dict[bytes, int]:
    """What each node has earned and is in no credit yet: unpaid, undecided, or not shown by receipts."""
    nodes = c.execute("SELECT DISTINCT node_id FROM earnings WHERE state IN ('held', 'released')").fetchall()
    return {row["node_id"]: _held(c, row["node_id"]) for row in nodes}


def open_epoch(c: sqlite3.Connection, coordinator: bytes) -> EpochRecord | None:
    """The epoch that is to be posted: one that an earlier attempt left, or a new one where a credit has grown since."""
    row = c.execute("SELECT epoch FROM epochs WHERE posted_at IS NULL ORDER BY epoch LIMIT 1").fetchone()
    if row is not None:
        return epoch(c, row["epoch"])
    (newest,) = c.execute("SELECT coalesce(max(epoch), 0) FROM epochs").fetchone()
    owed = credited(c)
    before = epoch(c, newest)
    if not owed or (before is not None and dict(before.leaves) == owed):
        return None
    number = newest + 1
    root = MerkleTree([claim_leaf(coordinator, number, node, amount) for node, amount in owed.items()]).root
    c.execute("INSERT INTO epochs VALUES (?, ?, NULL)", (number, root))
    c.executemany(
        "INSERT INTO epoch_credits VALUES (?, ?, ?, ?)",
        [(number, leaf, node, str(amount)) for leaf, (node, amount) in enumerate(owed.items())],
    )
    return EpochRecord(number, root, None, tuple(owed.items()))


def newest_epoch(c: sqlite3.Connection) -> int:
    """The last one that is posted; 0 before there is one."""
    (number,) = c.execute("SELECT coalesce(max(epoch), 0) FROM epochs WHERE posted_at IS NOT NULL").fetchone()
    return int(number)


def mark_posted(c: sqlite3.Connection, number: int, now: int) -> None:
    c.execute("UPDATE epochs SET posted_at = ? WHERE epoch = ?", (now, number))


def epoch(c: sqlite3.Connection, number: int) -> EpochRecord | None:
    row = c.execute("SELECT * FROM epochs WHERE epoch = ?", (number,)).fetchone()
    if row is None:
        return None
    leaves: Sequence[sqlite3.Row] = c.execute(
        "SELECT node_id, cumulative FROM epoch_credits WHERE epoch = ? ORDER BY leaf", (number,)
    ).fetchall()
    return EpochRecord(
        number, row["root"], row["posted_at"], tuple((leaf["node_id"], int(leaf["cumulative"])) for leaf in leaves)
    )
