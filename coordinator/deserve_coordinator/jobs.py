"""Carries every batch from its creation to its final status: validates, watches the clock, closes, assembles.

The store holds the whole state, so a restart continues where the last process stopped: `advance` looks at a batch's
status and does the next thing. Computing rows is not done here; leases do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Protocol

from deserve_coordinator.assembly import assemble
from deserve_coordinator.batch_lines import BatchLines, Check
from deserve_coordinator.blobs import Blobs
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.records import BatchRecord, NewRow

__all__ = ["Jobs"]

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 200
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class Audits(Protocol):
    """What decides whether delivered work may be published; see `audits.desk`."""

    async def undecided(self, batch_id: str) -> int:
        """Rows of the batch whose audits are not over."""


Forget = Callable[[dict[str, list[int]]], None]
"""Told the row keys, by ring, that nobody wants any more."""


class Jobs:
    """One task that advances batches, each in a task of its own so that a large one holds nobody up.

    `clock` gives Unix seconds; `on_work` is called when rows become ready to lease, `forget` when leased rows end.
    `audits`: None where delivered work is not audited.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        check: Check,
        *,
        clock: Callable[[], float],
        audits: Audits | None = None,
        on_work: Callable[[], None] = lambda: None,
        forget: Forget = lambda rows: None,
        poll_s: float = 1.0,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._check = check
        self._clock = clock
        self._audits = audits
        self._on_work = on_work
        self._forget = forget
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.failures = 0

    def wake(self) -> None:
        """Something changed: look at the open batches now instead of at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Advance batches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                for batch in await self._store.batches_with_status(*_OPEN):
                    if batch.id not in self._running:
                        task = tasks.create_task(self._advance_safely(batch))
                        self._running[batch.id] = task
                        task.add_done_callback(functools.partial(self._ended, batch.id))
                # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with what it waits for.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._wake.wait()

    def _ended(self, batch_id: str, _: asyncio.Task[None]) -> None:
        self._running.pop(batch_id, None)

    async def _advance_safely(self, batch: BatchRecord) -> None:
        try:
            await self.advance(batch.id)
        except Exception:
            self.failures += 1
            log.exception("batch %s cannot advance; trying again at the next poll", batch.id)

    def _now(self) -> int:
        return int(self._clock())

    async def advance(self, batch_id: str) -> None:
        """Do what the status of the batch asks for, as far as it goes now. One call at a time for each batch."""
        # Read here, not by who calls: an earlier call may have advanced the batch while the caller read it.
        batch = await self._store.batch(batch_id)
        if batch is None:
            return
        if batch.status == "validating":
            await self._validate(batch)
        elif batch.status == "in_progress":
            if batch.completed + batch.failed >= batch.total:
                if await self._store.transition(batch.id, ("in_progress",), "finalizing", self._now()):
                    await self._publish_audited(batch.id, "completed")
            elif self._clock() >= batch.expires_at:
                await self._expire(batch)
        elif batch.status == "finalizing":
            await self._publish_audited(batch.id, batch.outcome)
        elif batch.status == "cancelling":
            held = await self._store.close_batch(
                batch.id,
                ("cancelling",),
                "cancelling",
                "cancelled",
                "batch_cancelled",
                "The batch was cancelled before this row was computed.",
                batch.cancelling_at or self._now(),
            )
            if held is not None:
                self._forget(held)
                await self._publish(batch.id, "cancelling", "cancelled")

    async def _expire(self, batch: BatchRecord) -> None:
        held = await self._store.close_batch(
            batch.id,
            ("in_progress",),
            "finalizing",
            "expired",
            "batch_expired",
            "This row was not computed before the completion window ended.",
            self._now(),
        )
        if held is not None:
            self._forget(held)
            await self._publish_audited(batch.id, "expired")

    async def _publish_audited(self, batch_id: str, outcome: str) -> None:
        """Once audits are over: a refuted row would go back to `in_progress` with its batch until then."""
        if self._audits is None or not await self._audits.undecided(batch_id):
            await self._publish(batch_id, "finalizing", outcome)

    async def _publish(self, batch_id: str, source: str, outcome: str) -> None:
        files = await assemble(self._store, self._blobs, batch_id, self._now())
        # A row may have been taken back meanwhile: then there is more to compute.
        if await self._store.transition(
            batch_id, (source,), outcome, self._now(), output_file=files.output, error_file=files.errors
        ):
            log.info("batch %s %s", batch_id, outcome)

    async def _validate(self, batch: BatchRecord) -> None:
        await self._store.remove_rows(batch.id)  # what an interrupted validation left
        try:
            # Not in a thread: one that is cancelled would open the file for nobody to close.
            file = self._blobs.path(batch.input_file_id).open("rb")
        except FileNotFoundError:
            await self._fail(
                batch,
                [
                    {
                        "code": "file_not_found",
                        "message": "the input file is gone",
                        "param": "input_file_id",
                        "line": None,
                    }
                ],
            )
            return
        with file:
            lines = BatchLines(file, batch.endpoint, self._check)
            chunks = lines.chunks(_ROWS_AT_ONCE)

            def next_chunk() -> list[NewRow] | None:
                return next(chunks, None)

            while (chunk := await asyncio.to_thread(next_chunk)) is not None:
                await self._store.insert_rows(batch.id, chunk)
                current = await self._store.batch(batch.id)
                if current is None or current.status != "validating":
                    break
        if lines.faults:
            await self._fail(batch, lines.faults)
        elif await self._store.begin_batch(batch.id, lines.rows, self._now()):
            log.info("batch %s in progress with %d rows", batch.id, lines.rows)
            self._on_work()
        self.wake()

    async def _fail(self, batch: BatchRecord, faults: list[dict[str, object]]) -> None:
        await self._store.remove_rows(batch.id)
        await self._store.transition(batch.id, ("validating",), "failed", self._now(), errors=faults)
        log.info("batch %s failed validation: %s", batch.id, faults[0])
