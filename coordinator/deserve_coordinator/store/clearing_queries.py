"""SQL over clearing: which delivered rows of an audited job are good enough to be charged and paid.

A row whose draw was lost says nothing of who computed it; the next audit of the same node does. So a row is cleared
once every node with a part in it has passed an audit of this row or of a later one of the job, and none of an earlier
one is open; what is left at the job's end is cleared when no audit of it is open any more. A node that cheats from its
first row on is therefore never paid, and its payer never charged.
"""

from __future__ import annotations

import sqlite3

from deserve_coordinator.store import bill_queries

__all__ = ["clear"]

_OF_BILL = (
    " FROM audits a JOIN bills b ON b.row = a.row AND b.job_id = a.job_id AND b.void = 0"
    " WHERE a.job_id = ? AND a.node_id = ? AND a.kind = 'real' AND EXISTS (SELECT 1 FROM earnings g"
    "  WHERE g.job_id = b.job_id AND g.position = b.position AND g.node_id = a.node_id AND g.lease = a.lease)"
)


def clear(c: sqlite3.Connection, job_id: bytes) -> list[int]:
    """Decide what can be decided of a job's bills. Returns the rows."""
    waiting = c.execute(
        "SELECT b.position, b.row, EXISTS (SELECT 1 FROM earnings g WHERE g.job_id = b.job_id"
        "  AND g.position = b.position AND NOT EXISTS"
        "  (SELECT 1 FROM audit_draws d WHERE d.row = b.row AND d.lease = g.lease)) OR EXISTS"
        " (SELECT 1 FROM audits a WHERE a.row = b.row AND a.kind = 'real' AND a.phase != 'decided') AS early"
        " FROM bills b WHERE b.job_id = ? AND b.decided = 0 AND b.void = 0 ORDER BY b.position",
        (job_id,),
    ).fetchall()
    ended = not any(bill["early"] for bill in waiting) and _all_delivered(c, job_id)
    horizons: dict[bytes, int] = {}
    cleared = []
    for bill in waiting:
        if not bill["early"] and (ended or bill["position"] <= _horizon(c, job_id, bill["position"], horizons)):
            cleared.append(bill["row"])
    bill_queries.decide(c, cleared)
    return cleared


def _all_delivered(c: sqlite3.Connection, job_id: bytes) -> bool:
    found = c.execute(
        "SELECT t.completed + t.failed >= t.total FROM batches t JOIN escrows e ON e.batch_id = t.id"
        " WHERE e.job_id = ?",
        (job_id,),
    ).fetchone()
    return bool(found[0])


def _horizon(c: sqlite3.Connection, job_id: bytes, position: int, known: dict[bytes, int]) -> int:
    """Up to which bill all nodes with a part in this one have shown that they compute what they should."""
    nodes = c.execute("SELECT DISTINCT node_id FROM earnings WHERE job_id = ? AND position = ?", (job_id, position))
    horizons = []
    for (node_id,) in nodes.fetchall():
        if node_id not in known:
            (first_open,) = c.execute(
                f"SELECT min(b.position){_OF_BILL} AND a.phase != 'decided'", (job_id, node_id)
            ).fetchone()
            bound = -1 if first_open is None else first_open
            (passed,) = c.execute(
                f"SELECT max(b.position){_OF_BILL} AND a.outcome IN ('passed', 'not-audited')"
                " AND (? = -1 OR b.position < ?)",
                (job_id, node_id, bound, bound),
            ).fetchone()
            known[node_id] = -1 if passed is None else passed
        horizons.append(known[node_id])
    return min(horizons, default=position)
