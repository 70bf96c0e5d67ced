"""Turns the finished rows of a batch into its output and error file, in input order, a few hundred rows in memory.

Line shapes are OpenAI's. Ids of lines are derived from batch and row, so that assembling twice (after a crash) gives
the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from dataclasses import dataclass

from deserve_coordinator.blobs import Blobs, BlobWriter
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.records import FileRecord, RowOutcome

__all__ = ["Assembled", "assemble", "output_line"]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Assembled:
    """The files of a batch; None where no row went there."""

    output: FileRecord | None
    errors: FileRecord | None


def output_line(batch_id: str, row: RowOutcome) -> bytes:
    """One line with its newline. A status of 0 means the row was never answered: no response, but an error."""
    name = hashlib.sha256(f"{batch_id}/{row.ordinal}".encode()).hexdigest()[:24]
    head = f'{{"id": "batch_req_{name}", "custom_id": {json.dumps(row.custom_id)}, '.encode()
    if row.status == 0:
        return head + b'"response": null, "error": ' + row.body + b"}\n"
    response = f'"response": {{"status_code": {row.status}, "request_id": "req_{name}", "body": '.encode()
    return head + response + row.body + b'}, "error": null}\n'


class _Part:
    """One file in the making, opened at its first line."""

    def __init__(self, blobs: Blobs, filename: str) -> None:
        self._blobs = blobs
        self._filename = filename
        self._id = f"file-{secrets.token_hex(12)}"
        self._writer: BlobWriter | None = None

    def write(self, line: bytes) -> None:
        if self._writer is None:
            self._writer = self._blobs.create(self._id)
        self._writer.write(line)

    def finish(self, now: int) -> FileRecord | None:
        if self._writer is None:
            return None
        self._writer.commit()
        return FileRecord(self._id, "batch_output", self._filename, self._writer.bytes, self._writer.sha256, now)

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()


async def assemble(store: Store, blobs: Blobs, batch_id: str, now: int) -> Assembled:
    """Write both files of a batch whose rows are all finished. Publishing them is the caller's transaction."""
    output = _Part(blobs, f"{batch_id}_output.jsonl")
    errors = _Part(blobs, f"{batch_id}_error.jsonl")

    def write(rows: list[RowOutcome]) -> None:
        for row in rows:
            (output if row.status == 200 else errors).write(output_line(batch_id, row))

    after = -1
    try:
        while rows := await store.outcomes(batch_id, after=after, limit=_ROWS_AT_ONCE):
            await asyncio.to_thread(write, rows)
            after = rows[-1].ordinal
        return await asyncio.to_thread(lambda: Assembled(output.finish(now), errors.finish(now)))
    except BaseException:
        output.abandon()
        errors.abandon()
        raise
