"""Who copies the pages that the ledger orders: on the CPU between two arenas, in a timed stage nobody.

One lane a direction, because the two directions of a bus do not hinder each other. A lane can be given a rate: then a
transfer takes as long as its bytes would at that rate, so that hiding copies behind compute can be tried on a machine
that has no second memory. Lanes of a timed stage keep the rate and copy nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from deserve_kernels import copy_pages
from deserve_node.engine.cache import KvCache
from deserve_node.engine.ledger import Transfer
from deserve_node.engine.pages import PoolShape

__all__ = ["ArenaMover", "Done", "Mover", "PacedMover"]

Done = Callable[[BaseException | None], None]
"""Called once, from any thread, when a transfer is finished or has failed."""


class Mover(Protocol):
    """Starts transfers and tells when they are done, those of one direction in the order of their start."""

    def start(self, transfer: Transfer, done: Done) -> None: ...

    def fence(self, step: int) -> None:
        """Called by the computing thread before `step`: its device must wait for the step's copies, if they can still
        be under way when `done` has been called."""

    def computed(self, step: int) -> None:
        """Called by the computing thread when all work of `step` is queued or done, before its slots are reused."""

    def close(self) -> None:
        """End its threads; what has not started is dropped."""


class PacedMover:
    """Lanes that take their time: `page_bytes` are those of one page in each pool, rates bytes/s (0: none).

    `copy` does the work, if there is any.
    """

    def __init__(
        self,
        page_bytes: Sequence[int],
        *,
        in_bytes_per_s: float = 0.0,
        out_bytes_per_s: float = 0.0,
        copy: Callable[[Transfer], None] | None = None,
    ) -> None:
        self._page_bytes = tuple(page_bytes)
        self._copy = copy
        self._closed = threading.Event()
        self._lanes = {
            inward: _Lane("in" if inward else "out", rate, self._run, self._closed)
            for inward, rate in ((True, in_bytes_per_s), (False, out_bytes_per_s))
        }

    def start(self, transfer: Transfer, done: Done) -> None:
        self._lanes[transfer.inward].jobs.put((transfer, done))

    def fence(self, step: int) -> None:
        """Copies are complete when `done` is called."""

    def computed(self, step: int) -> None:
        """So are steps when they end."""

    def close(self) -> None:
        self._closed.set()
        for lane in self._lanes.values():
            lane.jobs.put(None)
        for lane in self._lanes.values():
            lane.thread.join()

    def _run(self, transfer: Transfer) -> int:
        if self._copy is not None:
            self._copy(transfer)
        return sum(len(copies.pages) * self._page_bytes[copies.pool] for copies in transfer.copies)


class _Lane:
    def __init__(self, name: str, bytes_per_s: float, run: Callable[[Transfer], int], closed: threading.Event) -> None:
        self.jobs: queue.SimpleQueue[tuple[Transfer, Done] | None] = queue.SimpleQueue()
        self._bytes_per_s = bytes_per_s
        self._run = run
        self._closed = closed
        self.thread = threading.Thread(target=self._work, name=f"copy {name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        free_at = 0.0
        while (job := self.jobs.get()) is not None and not self._closed.is_set():
            transfer, done = job
            free_at = max(free_at, time.perf_counter())
            try:
                moved = self._run(transfer)
            except Exception as error:  # noqa: BLE001 - the thread's boundary: whoever waits for the copy is told
                done(error)
                continue
            if self._bytes_per_s:
                free_at += moved / self._bytes_per_s
                if self._closed.wait(max(0.0, free_at - time.perf_counter())):
                    return
            done(None)


class ArenaMover(PacedMover):
    """Between the page tensors of a cache on the CPU and an arena beside it, which stands for host memory.

    The arena takes memory only for pages that have been written to it.
    """

    def __init__(self, cache: KvCache, *, in_bytes_per_s: float = 0.0, out_bytes_per_s: float = 0.0) -> None:
        self._tensors = [cache.tensors(pool) for pool in range(len(cache.shapes))]
        self._arenas = [_arena(shape, size) for shape, size in zip(cache.shapes, cache.pool_bytes, strict=True)]
        super().__init__(
            cache.pool_bytes, in_bytes_per_s=in_bytes_per_s, out_bytes_per_s=out_bytes_per_s, copy=self._copy_pages
        )

    def _copy_pages(self, transfer: Transfer) -> None:
        for copies in transfer.copies:
            copy_pages(
                self._tensors[copies.pool],
                self._arenas[copies.pool],
                torch.from_numpy(copies.slots),
                torch.from_numpy(copies.pages),
                inward=transfer.inward,
            )


def _arena(shape: PoolShape, page_bytes: int) -> torch.Tensor:
    # numpy's zeros come from the system's zero pages, torch's are written.
    return torch.from_numpy(np.zeros((shape.capacity, page_bytes), dtype=np.uint8))
