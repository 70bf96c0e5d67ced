"""Copies pages between a CUDA device and pinned host memory, on a stream for each direction. Not run on a GPU yet.

A transfer goes through a staging buffer on the device: a page's layers are gathered there by one kernel and leave as
one long copy, or come in as one and are scattered. Copies in are ordered by events alone: a transfer counts as done
when it is queued, and the computing stream waits for its event. Copies out count when they have happened, since the
ledger then lets go of the page.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from deserve_node.engine.cache import KvCache
from deserve_node.engine.ledger import Transfer
from deserve_node.engine.mover import PacedMover
from deserve_node.engine.pool_ledger import Ids, PageCopies

__all__ = ["CudaMover", "runs"]

STAGING_BYTES = 32 << 20


class CudaMover(PacedMover):
    """See `mover.Mover`. The lanes of `PacedMover` queue the work, so that nobody waits for thousands of launches."""

    def __init__(self, cache: KvCache, device: torch.device) -> None:
        from deserve_kernels.triton_copies import StagedPages

        self._device = device
        self._pools = [StagedPages(cache.tensors(pool)) for pool in range(len(cache.shapes))]
        self._arenas = [
            torch.empty(shape.capacity, size, dtype=torch.uint8, pin_memory=True)
            for shape, size in zip(cache.shapes, cache.pool_bytes, strict=True)
        ]
        self._streams = {inward: torch.cuda.Stream(device) for inward in (True, False)}  # type: ignore[no-untyped-call]
        rows = [max(1, STAGING_BYTES // size) for size in cache.pool_bytes]
        self._staging = {
            inward: [
                torch.empty(count, size, dtype=torch.uint8, device=device)
                for count, size in zip(rows, cache.pool_bytes, strict=True)
            ]
            for inward in (True, False)
        }
        self._lock = threading.Lock()
        self._computed: torch.cuda.Event | None = None
        self._arrivals: dict[int, list[torch.cuda.Event]] = {}
        super().__init__(cache.pool_bytes, copy=self._queue)

    def fence(self, step: int) -> None:
        with self._lock:
            arrivals = self._arrivals.pop(step, [])
        for event in arrivals:
            torch.cuda.current_stream(self._device).wait_event(event)

    def computed(self, step: int) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        with self._lock:
            self._computed = event

    def _queue(self, transfer: Transfer) -> None:
        stream = self._streams[transfer.inward]
        with self._lock:
            computed = self._computed
        if computed is not None:
            # Its slots were given away when the last step that used them had ended, that is, had been queued.
            stream.wait_event(computed)
        with torch.cuda.stream(stream):
            for copies in transfer.copies:
                self._copy_pages(copies, transfer.inward)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        if transfer.inward:
            with self._lock:
                self._arrivals.setdefault(transfer.number, []).append(event)
        else:
            event.synchronize()

    def _copy_pages(self, copies: PageCopies, inward: bool) -> None:
        staging, arena = self._staging[inward][copies.pool], self._arenas[copies.pool]
        # Neighbours in host memory travel as one copy, and no order is better than another for the slots.
        order = np.argsort(copies.pages, kind="stable")
        for begin in range(0, len(order), staging.shape[0]):
            part = order[begin : begin + staging.shape[0]]
            slots = torch.from_numpy(copies.slots[part]).pin_memory().to(self._device, non_blocking=True)
            if not inward:
                self._pools[copies.pool].copy(staging, slots, inward=False)
            for row, place, count in runs(copies.pages[part]):
                there, here = arena[place : place + count], staging[row : row + count]
                if inward:
                    here.copy_(there, non_blocking=True)
                else:
                    there.copy_(here, non_blocking=True)
            if inward:
                self._pools[copies.pool].copy(staging, slots, inward=True)


def runs(places: Ids | Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(index, place, count) of each stretch of consecutive numbers in `places`."""
    places = np.asarray(places, dtype=np.int64)
    starts = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1)
    ends = np.append(starts, len(places))[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield start, int(places[start]), end - start
