"""SQL over files and batches. Every function takes a connection and belongs inside one read or write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from deserve_coordinator.store.records import BatchRecord, FileRecord, NewBatch

__all__ = [
    "add_file",
    "batch",
    "batch_by_idempotency_key",
    "batches",
    "batches_with_status",
    "create_batch",
    "delete_file",
    "file",
    "files",
    "fix_codec",
    "set_total",
    "transition",
]

_BATCH_FIELDS = tuple(BatchRecord.__dataclass_fields__)


def _file(row: sqlite3.Row) -> FileRecord:
    return FileRecord(row["id"], row["purpose"], row["filename"], row["bytes"], row["sha256"], row["created_at"])


def _batch(row: sqlite3.Row) -> BatchRecord:
    values: dict[str, Any] = {name: row[name] for name in _BATCH_FIELDS}
    for name in ("metadata", "errors"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["codecs"] = tuple(json.loads(values["codecs"]))
    return BatchRecord(**values)


def add_file(c: sqlite3.Connection, record: FileRecord) -> None:
    c.execute(
        "INSERT INTO files (id, purpose, filename, bytes, sha256, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (record.id, record.purpose, record.filename, record.bytes, record.sha256, record.created_at),
    )


def file(c: sqlite3.Connection, file_id: str) -> FileRecord | None:
    row = c.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
    return None if row is None else _file(row)


def files(
    c: sqlite3.Connection, after: str | None, limit: int, purpose: str | None, ascending: bool
) -> list[FileRecord] | None:
    """One page of files, newest first unless `ascending`; None where `after` is no file."""
    where, values = ["1"], list[Any]()
    if after is not None:
        cursor = c.execute("SELECT seq FROM files WHERE id = ?", (after,)).fetchone()
        if cursor is None:
            return None
        where.append("seq > ?" if ascending else "seq < ?")
        values.append(cursor["seq"])
    if purpose is not None:
        where.append("purpose = ?")
        values.append(purpose)
    order = "ASC" if ascending else "DESC"
    found = c.execute(f"SELECT * FROM files WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?", (*values, limit))
    return [_file(row) for row in found]


def delete_file(c: sqlite3.Connection, file_id: str) -> str | None:
    """Delete the record; returns "missing", or "in use" while a batch still reads the file, or None when done."""
    reading = c.execute(
        "SELECT 1 FROM batches WHERE input_file_id = ? AND status = 'validating'", (file_id,)
    ).fetchone()
    if reading is not None:
        return "in use"
    return None if c.execute("DELETE FROM files WHERE id = ?", (file_id,)).rowcount else "missing"


def create_batch(c: sqlite3.Connection, new: NewBatch) -> BatchRecord:
    """Create, or return the batch that the same idempotency key created before (its digest tells if it is the same)."""
    if new.idempotency_key is not None:
        earlier = batch_by_idempotency_key(c, new.idempotency_key)
        if earlier is not None:
            return earlier
    c.execute(
        "INSERT INTO batches (id, endpoint, model, input_file_id, completion_window, status, metadata, created_at,"
        " expires_at, idempotency_key, request_digest, codecs)"
        " VALUES (?, ?, ?, ?, ?, 'validating', ?, ?, ?, ?, ?, ?)",
        (
            new.id,
            new.endpoint,
            new.model,
            new.input_file_id,
            new.completion_window,
            None if new.metadata is None else json.dumps(dict(new.metadata)),
            new.created_at,
            new.expires_at,
            new.idempotency_key,
            new.request_digest,
            json.dumps(new.codecs),
        ),
    )
    created = batch(c, new.id)
    assert created is not None
    return created


def batch(c: sqlite3.Connection, batch_id: str) -> BatchRecord | None:
    row = c.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return None if row is None else _batch(row)


def batch_by_idempotency_key(c: sqlite3.Connection, key: str) -> BatchRecord | None:
    row = c.execute("SELECT * FROM batches WHERE idempotency_key = ?", (key,)).fetchone()
    return None if row is None else _batch(row)


def batches(c: sqlite3.Connection, after: str | None, limit: int) -> list[BatchRecord] | None:
    """One page of batches, newest first; None where `after` is no batch."""
    before = 1 << 62
    if after is not None:
        cursor = c.execute("SELECT seq FROM batches WHERE id = ?", (after,)).fetchone()
        if cursor is None:
            return None
        before = cursor["seq"]
    found = c.execute("SELECT * FROM batches WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before, limit))
    return [_batch(row) for row in found]


def batches_with_status(c: sqlite3.Connection, statuses: Sequence[str]) -> list[BatchRecord]:
    marks = ",".join("?" * len(statuses))
    return [_batch(r) for r in c.execute(f"SELECT * FROM batches WHERE status IN ({marks}) ORDER BY seq", statuses)]


def transition(
    c: sqlite3.Connection,
    batch_id: str,
    sources: Sequence[str],
    target: str,
    now: int,
    *,
    outcome: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    output_file: FileRecord | None = None,
    error_file: FileRecord | None = None,
) -> bool:
    """Move a batch from one of `sources` to `target`, stamping `<target>_at`; False where it is in another status.

    Files that the new status publishes are added in the same transaction.
    """
    marks = ",".join("?" * len(sources))
    moved = c.execute(
        f"UPDATE batches SET status = ?, {target}_at = ?, outcome = coalesce(?, outcome), errors = coalesce(?, errors),"
        f" output_file_id = coalesce(?, output_file_id), error_file_id = coalesce(?, error_file_id)"
        f" WHERE id = ? AND status IN ({marks})",
        (
            target,
            now,
            outcome,
            None if errors is None else json.dumps(errors),
            None if output_file is None else output_file.id,
            None if error_file is None else error_file.id,
            batch_id,
            *sources,
        ),
    ).rowcount
    if moved:
        for record in (output_file, error_file):
            if record is not None:
                add_file(c, record)
    return bool(moved)


def fix_codec(c: sqlite3.Connection, batch_id: str, proposed: Sequence[str]) -> str:
    """The codec of all rows of the batch; where none is fixed yet, the first of `proposed` that it allows, or "raw"."""
    row = c.execute("SELECT codecs, codec FROM batches WHERE id = ?", (batch_id,)).fetchone()
    fixed: str | None = row["codec"]
    if fixed is None:
        allowed = json.loads(row["codecs"])
        fixed = next((codec for codec in proposed if codec in allowed), "raw")
        c.execute("UPDATE batches SET codec = ? WHERE id = ?", (fixed, batch_id))
    return fixed


def set_total(c: sqlite3.Connection, batch_id: str, total: int) -> None:
    c.execute("UPDATE batches SET total = ? WHERE id = ?", (total, batch_id))
