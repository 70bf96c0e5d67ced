"""All that a node proves of its work, over all rings that it joins: one book of receipts, one store of evidence.

A ring's `Committer` comes from here. Receipts go to the coordinator whenever there is a session and are repeated until
it has stored them. Without a signer the node works for nothing: it commits and keeps evidence as others rely on it to,
and signs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from deserve_network.money_messages import SignedReceipt
from deserve_network.ring_messages import Admit, RowLabel
from deserve_node.proof.committer import ClosedWork, Committer, StagePosition
from deserve_node.proof.evidence import EvidenceStore
from deserve_node.proof.receipts import ReceiptBook, Signer

__all__ = ["EVIDENCE_DIRECTORY", "RECEIPTS_FILE", "RowName", "WorkProofs", "Worker"]

RECEIPTS_FILE = "receipts.sqlite"
EVIDENCE_DIRECTORY = "evidence"
RowName = tuple[bytes, int, int, int]
"""Job id, row key, lease, attempt."""


class Worker(Protocol):
    """Who wants to know what was worked for and not paid yet. Called in the thread that signs, and on the loop's."""

    def worked(
        self, receipts: Sequence[SignedReceipt], work_ids: Sequence[bytes], rows: Sequence[Iterable[RowName]]
    ) -> None:
        """Receipts that were signed now, their work ids, and the rows that each is for."""

    def over(self, rows: Iterable[RowName]) -> None:
        """These rows have left the ring."""


class WorkProofs:
    """Of one node, below its data directory `data`. All methods belong to the event loop's thread. Close it."""

    def __init__(self, data: Path, *, evidence_bytes: int) -> None:
        self.book = ReceiptBook(data / RECEIPTS_FILE)
        self.evidence = EvidenceStore(data / EVIDENCE_DIRECTORY, cap_bytes=evidence_bytes)
        self._signer: Signer | None = None
        self._worker: Worker | None = None
        self._signed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def employ(self, signer: Signer | None, worker: Worker | None = None) -> None:
        """Sign with `signer` from the next ring on, and tell `worker`."""
        self._signer, self._worker = signer, worker

    def committer(self, position: StagePosition) -> Committer:
        """For one membership of a ring."""
        signer, worker = self._signer, self._worker

        def sign(works: Sequence[ClosedWork]) -> None:
            if signer is not None:
                self._sign(works, signer, worker)

        def left(labels: Sequence[RowLabel]) -> None:
            if worker is not None:
                worker.over([_name(label) for label in labels])

        return Committer(position, sign=sign, keep=self._keep, left=left)

    async def deliver(self, send: Callable[[object], Awaitable[None]]) -> None:
        """Send every report that is not stored, then whatever comes. Ends with the exception of `send`."""
        last = 0
        while True:
            self._signed.clear()
            reports = await asyncio.to_thread(self.book.unstored, last)
            for report in reports:
                await send(report)
                last = report.report
            if not reports:
                await self._signed.wait()

    async def stored(self, report: int) -> None:
        """The coordinator has this report."""
        await asyncio.to_thread(self.book.stored, report)

    def close(self) -> None:
        """Write what waits. No committer may be at work any more."""
        self.evidence.close()
        self.book.close()

    def _sign(self, works: Sequence[ClosedWork], signer: Signer, worker: Worker | None) -> None:
        signed = self.book.sign(works, signer)
        if worker is not None and signed:
            rows = [[_name(row.label) for row in work.booked.rows] for work, _ in signed]
            worker.worked([receipt for _, receipt in signed], [work.work.work_id for work, _ in signed], rows)
        self._loop.call_soon_threadsafe(self._signed.set)

    def _keep(self, works: Sequence[ClosedWork], admits: Mapping[int, Admit]) -> None:
        self.evidence.keep(works, admits)


def _name(label: RowLabel) -> RowName:
    return label.job_id, label.row, label.lease, label.attempt
