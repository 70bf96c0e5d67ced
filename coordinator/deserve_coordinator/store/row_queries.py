"""SQL over rows: inserted once, leased under a growing fence, finished exactly once.

A row is `pending`, `leased` or `done`. Whoever reports a result must name the fence of the row's newest lease; the
results table's primary key makes a second result impossible whatever the callers do.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping, Sequence

from deserve_coordinator.money.tariff import StageTerms, dearest_row
from deserve_coordinator.store.batch_queries import fix_codec
from deserve_coordinator.store.bill_queries import bill_row, note_drawn, note_ring
from deserve_coordinator.store.escrow_queries import escrow, escrow_of, note_dearest
from deserve_coordinator.store.records import (
    Backlog,
    FinishCounts,
    FinishedRow,
    LeasedRecord,
    LeaseRecord,
    NewRow,
    Refusal,
    ReturnedRow,
    RowOutcome,
)
from deserve_text.error_body import error_body

__all__ = [
    "MAX_FAILURES",
    "backlog",
    "close_rows",
    "count_losses",
    "finish_rows",
    "insert_rows",
    "lease_rows",
    "outcomes",
    "release_all",
    "release_lease",
    "release_ring",
    "remove_rows",
    "return_rows",
]

MAX_FAILURES = 10
"""Leases of one row that may end in a failure of their ring before the row itself is taken for the cause."""


def _error_body(refusal: Refusal) -> bytes:
    body = error_body(refusal.status, refusal.message, param=refusal.param, code=refusal.code)
    return json.dumps(body).encode()


def insert_rows(c: sqlite3.Connection, batch_id: str, rows: Sequence[NewRow]) -> None:
    """Add validated rows; one that carries a refusal is finished at once."""
    payer = escrow(c, batch_id)
    dearest = 0
    for new in rows:
        state = "pending" if new.refusal is None else "done"
        size = (None, None, None) if new.size is None else dataclasses.astuple(new.size)
        key = c.execute(
            "INSERT INTO rows (batch_id, ordinal, custom_id, body, state, prompt_tokens, most_tokens, unseen_tokens)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (batch_id, new.ordinal, new.custom_id, new.body, state, *size),
        ).lastrowid
        if payer is not None and new.size is not None:
            prices = (payer.most_prefill, payer.most_decode, payer.margin_ppm)
            dearest = max(dearest, dearest_row(new.size, payer.layers, *prices))
        if new.refusal is not None and key is not None:
            _record(c, batch_id, key, new.refusal.status, _error_body(new.refusal), 0, 0)
    if payer is not None:
        note_dearest(c, batch_id, dearest)


def remove_rows(c: sqlite3.Connection, batch_id: str) -> None:
    """Forget every row of a batch that has not begun (its validation failed or starts again); of others, nothing."""
    validating = c.execute("SELECT 1 FROM batches WHERE id = ? AND status = 'validating'", (batch_id,)).fetchone()
    if validating is None:
        return
    c.execute("DELETE FROM results WHERE row IN (SELECT key FROM rows WHERE batch_id = ?)", (batch_id,))
    c.execute("DELETE FROM rows WHERE batch_id = ?", (batch_id,))
    c.execute("UPDATE batches SET total = 0, completed = 0, failed = 0 WHERE id = ?", (batch_id,))


def _record(
    c: sqlite3.Connection, batch_id: str, key: int, status: int, body: bytes, prompt_tokens: int, completion_tokens: int
) -> None:
    c.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?)", (key, status, body, prompt_tokens, completion_tokens))
    c.execute("UPDATE rows SET state = 'done', log = NULL WHERE key = ?", (key,))
    counted = "completed" if status == 200 else "failed"
    c.execute(
        f"UPDATE batches SET {counted} = {counted} + 1, input_tokens = input_tokens + ?,"
        " output_tokens = output_tokens + ? WHERE id = ?",
        (prompt_tokens, completion_tokens, batch_id),
    )


def backlog(c: sqlite3.Connection) -> list[Backlog]:
    """Open rows of every batch in progress, oldest batch first. Asked at each lease, so it counts no rows."""
    found = c.execute(
        "SELECT b.id, o.pending, o.leased, e.* FROM batches b JOIN open_rows o ON o.batch_id = b.id"
        " LEFT JOIN escrows e ON e.batch_id = b.id WHERE b.status = 'in_progress' ORDER BY b.seq"
    )
    return [
        Backlog(row["id"], row["pending"], row["leased"], None if row["job_id"] is None else escrow_of(row))
        for row in found
    ]


def held_by(c: sqlite3.Connection, ring: str) -> int:
    (count,) = c.execute("SELECT count(*) FROM rows WHERE state = 'leased' AND ring = ?", (ring,)).fetchone()
    return int(count)


def lease_rows(
    c: sqlite3.Connection,
    ring: str,
    shares: Mapping[str, int],
    max_bytes: int,
    codecs: Sequence[str] = (),
    terms: Sequence[StageTerms] = (),
) -> LeaseRecord | None:
    """Lease up to `shares[batch]` pending rows of each batch, in order, while their bodies and logs fit `max_bytes`.

    `codecs` are what the ring proposes for a batch that has none yet, the best first, `terms` what its stages cost.
    Returns None where nothing is pending any more. The fence is larger than that of every earlier lease.
    """
    taken: list[LeasedRecord] = []
    for batch_id, share in shares.items():
        found = c.execute(
            "SELECT r.key, r.ordinal, r.body, r.log, b.endpoint FROM rows r JOIN batches b ON b.id = r.batch_id"
            " WHERE r.batch_id = ? AND r.state = 'pending' AND b.status = 'in_progress' ORDER BY r.ordinal LIMIT ?",
            (batch_id, share),
        )
        for row in found:
            max_bytes -= len(row["body"]) + len(row["log"] or b"")
            if max_bytes < 0 and taken:
                break
            taken.append(LeasedRecord(row["key"], batch_id, row["ordinal"], row["endpoint"], row["body"], row["log"]))
    if not taken:
        return None
    fixed = {batch_id: fix_codec(c, batch_id, codecs) for batch_id in dict.fromkeys(row.batch_id for row in taken)}
    paying = {batch_id: escrow(c, batch_id) for batch_id in fixed}
    jobs = {batch_id: None if payer is None else payer.job_id for batch_id, payer in paying.items()}
    taken = [dataclasses.replace(row, codec=fixed[row.batch_id], job_id=jobs[row.batch_id]) for row in taken]
    note_ring(c, ring, terms)
    c.execute("UPDATE counters SET value = value + 1 WHERE name = 'fence'")
    (fence,) = c.execute("SELECT value FROM counters WHERE name = 'fence'").fetchone()
    c.executemany(
        "UPDATE rows SET state = 'leased', fence = ?, ring = ? WHERE key = ?", [(fence, ring, r.key) for r in taken]
    )
    return LeaseRecord(fence, fence, tuple(taken))


def finish_rows(c: sqlite3.Connection, ring: str, results: Sequence[FinishedRow]) -> FinishCounts:
    """Store each result whose fence is its row's newest and was `ring`'s; others change nothing and are counted."""
    stored = duplicate = stale = 0
    touched: set[str] = set()
    for result in results:
        row = c.execute("SELECT batch_id, state, fence, ring FROM rows WHERE key = ?", (result.key,)).fetchone()
        if row is None or (row["fence"], row["fence"], row["ring"]) != (result.fence, result.lease, ring):
            stale += 1
        elif row["state"] == "done":
            duplicate += 1
        else:
            _record(
                c,
                row["batch_id"],
                result.key,
                result.status,
                result.body,
                result.prompt_tokens,
                result.completion_tokens,
            )
            if result.status == 200:
                bill_row(c, row["batch_id"], ring, result)
            stored += 1
            touched.add(row["batch_id"])
    full = {
        batch_id
        for batch_id in touched
        if c.execute("SELECT completed + failed >= total FROM batches WHERE id = ?", (batch_id,)).fetchone()[0]
    }
    return FinishCounts(stored, duplicate, stale, frozenset(full))


def return_rows(c: sqlite3.Connection, ring: str, rows: Sequence[ReturnedRow], *, failed: bool) -> list[int]:
    """Unfinished rows come back with what was drawn so far. Returns the keys of those whose lease that ends.

    A row under a newer lease is left alone. `failed`: its ring could not go on, which counts as a loss of the row.
    """
    ended: list[int] = []
    for returned in rows:
        row = c.execute(
            "SELECT key, batch_id, failures, state FROM rows WHERE key = ? AND fence = ? AND ring = ?"
            " AND state != 'done'",
            (returned.key, returned.fence, ring),
        ).fetchone()
        if row is None:
            continue
        c.execute("UPDATE rows SET log = coalesce(?, log) WHERE key = ?", (returned.log, returned.key))
        if returned.log is not None and escrow(c, row["batch_id"]) is not None:
            note_drawn(c, returned.key, returned.lease, ring, returned.tokens)
        if row["state"] == "leased":
            ended += _release(c, [row], failed)
    return ended


def count_losses(c: sqlite3.Connection, keys: Sequence[int]) -> None:
    """One more loss for each of these rows that is open. One that another ring has by now may still finish there."""
    for key in keys:
        row = c.execute("SELECT key, batch_id, failures, state FROM rows WHERE key = ?", (key,)).fetchone()
        if row is not None and row["state"] == "pending":
            _release(c, [row], failed=True)
        elif row is not None and row["state"] == "leased":
            c.execute("UPDATE rows SET failures = failures + 1 WHERE key = ?", (key,))


def release_lease(c: sqlite3.Connection, fence: int, *, failed: bool) -> list[int]:
    """End one lease: its open rows are pending again. Returns their keys."""
    found = c.execute("SELECT key, batch_id, failures FROM rows WHERE state = 'leased' AND fence = ?", (fence,))
    return _release(c, found.fetchall(), failed)


def release_ring(c: sqlite3.Connection, ring: str, *, failed: bool) -> list[int]:
    """End every lease of a ring. Returns the keys of the rows that were open."""
    found = c.execute("SELECT key, batch_id, failures FROM rows WHERE state = 'leased' AND ring = ?", (ring,))
    return _release(c, found.fetchall(), failed)


def release_all(c: sqlite3.Connection) -> int:
    """At start: nobody holds anything. Fences stay, so a head that kept a result can still hand it in."""
    return c.execute("UPDATE rows SET state = 'pending' WHERE state = 'leased'").rowcount


def _release(c: sqlite3.Connection, rows: Sequence[sqlite3.Row], failed: bool) -> list[int]:
    for row in rows:
        if failed and row["failures"] + 1 >= MAX_FAILURES:
            message = f"the row was lost {MAX_FAILURES} times with the ring that computed it"
            _record(c, row["batch_id"], row["key"], 500, _error_body(Refusal(500, "retries_exhausted", message)), 0, 0)
        else:
            c.execute(
                "UPDATE rows SET state = 'pending', failures = failures + ? WHERE key = ?", (int(failed), row["key"])
            )
    return [row["key"] for row in rows]


def close_rows(c: sqlite3.Connection, batch_id: str, code: str, message: str) -> dict[str, list[int]]:
    """Give every open row of a batch an error without a response. Returns the keys that rings hold, by ring."""
    held: dict[str, list[int]] = {}
    body = json.dumps({"code": code, "message": message}).encode()
    open_rows = c.execute("SELECT key, ring, state FROM rows WHERE batch_id = ? AND state != 'done'", (batch_id,))
    for row in open_rows.fetchall():
        if row["state"] == "leased":
            held.setdefault(row["ring"], []).append(row["key"])
        _record(c, batch_id, row["key"], 0, body, 0, 0)
    c.execute("UPDATE batches SET total = max(total, completed + failed) WHERE id = ?", (batch_id,))
    return held


def outcomes(c: sqlite3.Connection, batch_id: str, after: int, limit: int) -> list[RowOutcome]:
    """Finished rows of a batch in input order, those with an ordinal above `after`."""
    found = c.execute(
        "SELECT r.ordinal, r.custom_id, x.status, x.body FROM rows r JOIN results x ON x.row = r.key"
        " WHERE r.batch_id = ? AND r.ordinal > ? ORDER BY r.ordinal LIMIT ?",
        (batch_id, after, limit),
    )
    return [RowOutcome(row["ordinal"], row["custom_id"], row["status"], row["body"]) for row in found]
