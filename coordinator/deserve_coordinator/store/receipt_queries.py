"""SQL over receipts: stored once, joined with their neighbours', anchored in order.

A receipt is *sound* once its in-root is what the stage before signed as its out-root, and its out-root what the stage
behind signed as its in-root. Only then do its layer-tokens count as shown. Where the two differ both are *broken*, and
who lies is for an audit to say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from deserve_coordinator.store.money_records import AnchorRecord, ReceiptRecord, StoredReceipts
from deserve_ledger.amounts import check_bytes32
from deserve_ledger.merkle import MerkleTree, leaf_hash

__all__ = ["add_receipts", "anchor_settled", "anchored_receipts", "open_anchor", "receipt_leaf", "stage_of"]

_FIELDS = tuple(ReceiptRecord.__dataclass_fields__)
_COLUMNS = ", ".join(_FIELDS)
_MARKS = ", ".join("?" * len(_FIELDS))
_CHUNK = ("job_id", "ring", "epoch", "lease", "attempt", "chunk")


def _receipt(row: sqlite3.Row) -> ReceiptRecord:
    return ReceiptRecord(*(row[name] for name in _FIELDS))


def receipt_leaf(receipt: ReceiptRecord) -> bytes:
    """The leaf of a receipt under an anchor: of what was signed, 160 bytes, which no claim's leaf is made of."""
    roots = check_bytes32("in_root", receipt.in_root) + check_bytes32("out_root", receipt.out_root)
    return leaf_hash(receipt.work_id + receipt.node_id + roots + receipt.units.to_bytes(32, "big"))


def stage_of(c: sqlite3.Connection, ring: str, epoch: int, stage: int) -> tuple[bytes, int] | None:
    """(node id, layers) of a stage of a ring's epoch, or None where no paid row was ever leased to it."""
    row = c.execute(
        "SELECT node_id, last - first AS layers FROM stages WHERE ring = ? AND stage = ?", (f"{ring}/{epoch}", stage)
    ).fetchone()
    return None if row is None else (row["node_id"], row["layers"])


def add_receipts(c: sqlite3.Connection, receipts: Sequence[ReceiptRecord]) -> StoredReceipts:
    """Store what is new. A second content for one (node, work) is not stored but returned beside the first."""
    stored = duplicate = broken = 0
    contradictions = []
    for new in receipts:
        known = c.execute(
            "SELECT * FROM receipts WHERE node_id = ? AND work_id = ?", (new.node_id, new.work_id)
        ).fetchone()
        if known is None:
            c.execute(f"INSERT INTO receipts ({_COLUMNS}) VALUES ({_MARKS})", [getattr(new, name) for name in _FIELDS])
            stored += 1
            broken += _join_neighbours(c, new)
            continue
        first = _receipt(known)
        if (first.in_root, first.out_root, first.units) == (new.in_root, new.out_root, new.units):
            duplicate += 1
        else:
            contradictions.append((first, new))
    return StoredReceipts(stored, duplicate, broken, tuple(contradictions))


def _join_neighbours(c: sqlite3.Connection, new: ReceiptRecord) -> int:
    """Look at the chunk of `new` again; returns how many of its receipts turned out broken."""
    (stages,) = c.execute("SELECT count(*) FROM stages WHERE ring = ?", (f"{new.ring}/{new.epoch}",)).fetchone()
    same = " AND ".join(f"{name} = ?" for name in _CHUNK)
    found = c.execute(f"SELECT * FROM receipts WHERE {same}", [getattr(new, name) for name in _CHUNK])
    chain = {row["stage"]: row for row in found}
    broken = 0
    for stage, row in chain.items():
        if row["chained"] != "open":
            continue
        links = []
        if stage > 0:
            links.append((chain.get(stage - 1), row))
        if stage < stages - 1:
            links.append((row, chain.get(stage + 1)))
        if any(a is not None and b is not None and a["out_root"] != b["in_root"] for a, b in links):
            c.execute("UPDATE receipts SET chained = 'broken' WHERE position = ?", (row["position"],))
            broken += 1
        elif all(a is not None and b is not None for a, b in links):
            c.execute("UPDATE receipts SET chained = 'sound' WHERE position = ?", (row["position"],))
            c.execute(
                "INSERT INTO shown_work (job_id, lease, node_id, receipted) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (job_id, lease, node_id) DO UPDATE SET receipted = receipted + excluded.receipted",
                (row["job_id"], row["lease"], row["node_id"], row["units"]),
            )
    return broken


def open_anchor(c: sqlite3.Connection) -> AnchorRecord | None:
    """The anchor that is to be posted: one that an earlier attempt left, or a new one over the receipts in none."""
    row = c.execute("SELECT * FROM anchors WHERE position IS NULL ORDER BY number LIMIT 1").fetchone()
    if row is not None:
        return AnchorRecord(row["number"], row["root"], None)
    loose = c.execute("SELECT * FROM receipts WHERE anchor IS NULL ORDER BY position").fetchall()
    if not loose:
        return None
    (number,) = c.execute("SELECT coalesce(max(number), 0) + 1 FROM anchors").fetchone()
    root = MerkleTree([receipt_leaf(_receipt(row)) for row in loose]).root
    c.execute("INSERT INTO anchors VALUES (?, ?, NULL)", (number, root))
    c.execute("UPDATE receipts SET anchor = ? WHERE anchor IS NULL AND position <= ?", (number, loose[-1]["position"]))
    return AnchorRecord(number, root, None)


def anchor_settled(c: sqlite3.Connection, number: int, position: int) -> None:
    c.execute("UPDATE anchors SET position = ? WHERE number = ?", (position, number))


def anchored_receipts(c: sqlite3.Connection, number: int) -> tuple[AnchorRecord, list[ReceiptRecord]] | None:
    """An anchor and its receipts in the order of its leaves; None where there is none of this number."""
    row = c.execute("SELECT * FROM anchors WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    found = c.execute("SELECT * FROM receipts WHERE anchor = ? ORDER BY position", (number,))
    return AnchorRecord(number, row["root"], row["position"]), [_receipt(r) for r in found]
