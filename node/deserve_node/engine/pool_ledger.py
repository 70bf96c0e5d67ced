"""Where the pages of one pool are: which device slot holds which, what may leave it, and what must be copied. Pure.

A page has an id as long as its sequence holds it, and that id is also its place in host memory: there is room for every
page there, so a page whose host copy is current gives its slot up at once. A slot is *pinned* while a step that uses it
has not ended, and *read* while a write-back copies from it; neither is ever given away. Arrays instead of objects:
a step of thousands of pages costs microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deserve_network.ring_messages import Chunk
from deserve_node.engine.pages import PagePool, PageTable, PoolShape

__all__ = ["Ids", "PageCopies", "PoolLedger"]

Ids = npt.NDArray[np.int64]

_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PageCopies:
    """Pages of one pool to copy: `pages` int64 [n] are places in host memory, `slots` int64 [n] those on the device."""

    pool: int
    pages: Ids
    slots: Ids


class PoolLedger:
    """One pool, `pool` its index. Steps are placed one after the other and end in the same order."""

    def __init__(self, shape: PoolShape, pool: int) -> None:
        self.shape = shape
        self.pool = pool
        self.pages = PagePool(shape)
        self.ended = -1
        """The last step that ended."""
        self.written = 0
        """The last write-back that is done; they are done in order."""
        # Of a page:
        self._slot = np.full(shape.capacity, -1, dtype=np.int64)
        self._clean = np.zeros(shape.capacity, dtype=np.bool_)
        self._open = np.zeros(shape.capacity, dtype=np.bool_)
        self._kept = np.zeros(shape.capacity, dtype=np.bool_)
        self._cleaning = np.zeros(shape.capacity, dtype=np.int64)
        self._microbatch = np.full(shape.capacity, -1, dtype=np.int64)
        # Of a slot:
        self._page = np.full(shape.pages, -1, dtype=np.int64)
        self._step = np.full(shape.pages, -1, dtype=np.int64)
        self._reader = np.zeros(shape.pages, dtype=np.int64)
        self._free = list(range(shape.pages - 1, -1, -1))
        self._vacated = _NOTHING
        """Slots whose page is gone and which a step or a write-back still uses."""
        # Of the step that is being placed:
        self._table: PageTable = np.empty((0, 0), dtype=np.int32)
        self._missing = _NOTHING
        self._returning: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        """Of each missing page, whether it is in host memory; the others are new."""

    def release(self, sequences: Iterable[int]) -> None:
        """Forget sequences; what a step under way uses of them stays until it ends."""
        gone = [page for sequence in sequences for page in self.pages.release(sequence)]
        if gone:
            self._vacate(np.array(gone, dtype=np.int64))

    def shrink(self, chunks: Sequence[Chunk]) -> None:
        """Give back what slid out of the windows of a step's sequences."""
        if self.shape.window or self.shape.chunk:
            gone = [page for c in chunks for page in self.pages.shrink(c.sequence, c.start)]
            if gone:
                self._vacate(np.array(gone, dtype=np.int64))

    def want(self, step: int, microbatch: int, chunks: Sequence[Chunk]) -> None:
        """Begin to place `step`: take pages for its chunks and pin those of its pages that are on the device.

        Raises `OutOfPagesError` where device and host together hold no more.
        """
        fresh = [page for c in chunks for page in self.pages.grow(c.sequence, c.start + c.count)]
        self._table = self.pages.tables([c.sequence for c in chunks])
        wanted = self._table[self._table >= 0].astype(np.int64)
        absent = self._slot[wanted] < 0
        missing = wanted[absent]
        returning = ~np.isin(missing, fresh)
        # What has to travel gets its slots first.
        self._missing = np.concatenate([missing[returning], missing[~returning]])
        self._returning = np.sort(returning)[::-1]
        self._step[self._slot[wanted[~absent]]] = step
        self._microbatch[wanted] = microbatch
        self._mark_written(chunks)

    def _mark_written(self, chunks: Sequence[Chunk]) -> None:
        """The pages that the step writes: whatever copy of them exists or is being made is outdated."""
        tokens = self.shape.page_tokens
        first = np.array([c.start // tokens for c in chunks], dtype=np.int64)
        end = np.array([c.start + c.count for c in chunks], dtype=np.int64)
        columns = np.arange(self._table.shape[1])
        touched = (columns >= first[:, None]) & (columns <= ((end - 1) // tokens)[:, None]) & (self._table >= 0)
        pages = self._table[touched]
        self._clean[pages] = False
        self._cleaning[pages] = 0
        self._open[pages] = False
        partial = np.nonzero(end % tokens)[0]
        self._open[self._table[partial, end[partial] // tokens]] = True

    def place(self, step: int, *, alone: bool) -> tuple[PageCopies | None, Ids]:
        """Give slots to what the step still misses, as far as there are any.

        Returns what to copy in, and pages to write back first because too few are clean. `alone`: all earlier steps
        have ended, so that pages which others would keep may go, too.
        """
        if self.placed:
            return None, _NOTHING
        slots = self._take(len(self._missing), alone)
        pages, self._missing = np.split(self._missing, [len(slots)])
        returning, self._returning = np.split(self._returning, [len(slots)])
        self._page[slots] = pages
        self._slot[pages] = slots
        self._step[slots] = step
        copies = PageCopies(self.pool, pages[returning], slots[returning]) if returning.any() else None
        urgent = _NOTHING if self.placed or not alone else self._to_clean(len(self._missing) - self._coming())
        return copies, urgent

    @property
    def placed(self) -> bool:
        return not len(self._missing)

    @property
    def draining(self) -> bool:
        """Whether slots become free without anybody's doing: a write-back is under way."""
        return bool((self._reader > self.written).any())

    def table(self) -> PageTable:
        """Device slots int32 [sequences, pages] of the step that is placed, -1 where there is no page."""
        return np.where(self._table >= 0, self._slot[self._table], -1).astype(np.int32)

    def end(self, step: int, microbatch: int, quota: int | None) -> Ids:
        """`step` has ended; `quota` is how many pages of its microbatch stay (None: all that can).

        Returns the pages that are to be written back. Those still being written are kept before others, and the same
        ones each time: a page travels once.
        """
        self.ended = step
        self._free_vacated()
        there = self._page[self._page >= 0]
        own = np.sort(there[self._microbatch[there] == microbatch])
        if quota is None or len(own) <= quota:
            self._kept[own] = quota is not None
            return _NOTHING
        own = own[np.argsort(~self._open[own], kind="stable")]
        self._kept[own[:quota]] = True
        leaving = own[quota:]
        self._kept[leaving] = False
        dirty: Ids = leaving[
            self._is_idle(self._slot[leaving]) & ~self._clean[leaving] & (self._cleaning[leaving] == 0)
        ]
        return dirty

    def write_back(self, pages: Ids, ticket: int) -> PageCopies:
        """Note that `ticket` copies these pages out."""
        slots = self._slot[pages]
        self._cleaning[pages] = ticket
        self._reader[slots] = ticket
        return PageCopies(self.pool, pages, slots)

    def wrote(self, ticket: int) -> None:
        """Write-backs up to `ticket` are done: pages that nobody wrote meanwhile are clean."""
        self.written = ticket
        there = self._page[self._page >= 0]
        done = there[(self._cleaning[there] > 0) & (self._cleaning[there] <= ticket)]
        self._clean[done] = True
        self._cleaning[done] = 0
        self._free_vacated()

    def _vacate(self, pages: Ids) -> None:
        slots = self._slot[pages]
        slots = slots[slots >= 0]
        self._page[slots] = -1
        self._slot[pages] = -1
        self._clean[pages] = self._open[pages] = self._kept[pages] = False
        self._cleaning[pages] = 0
        self._microbatch[pages] = -1
        self._vacated = np.concatenate([self._vacated, slots])
        self._free_vacated()

    def _is_idle(self, slots: Ids) -> npt.NDArray[np.bool_]:
        """Neither pinned by a step nor read by a write-back."""
        return (self._step[slots] <= self.ended) & (self._reader[slots] <= self.written)

    def _free_vacated(self) -> None:
        if len(self._vacated):
            idle = self._is_idle(self._vacated)
            self._free += self._vacated[idle].tolist()
            self._vacated = self._vacated[~idle]

    def _take(self, count: int, alone: bool) -> Ids:
        """Up to `count` slots: free ones, then those of clean pages, whose microbatch has its turn the latest."""
        if len(self._free) < count:
            self._drop(count - len(self._free), kept=False)
        if len(self._free) < count and alone:
            self._drop(count - len(self._free) - self._coming(), kept=True)
        left = max(0, len(self._free) - count)
        taken = np.array(self._free[left:], dtype=np.int64)
        del self._free[left:]
        return taken

    def _coming(self) -> int:
        """Slots that write-backs under way will make free, or their pages clean."""
        return int(((self._reader > self.written) & (self._step <= self.ended)).sum())

    def _drop(self, count: int, *, kept: bool) -> None:
        slots = np.nonzero(self._page >= 0)[0]
        pages = self._page[slots]
        chosen = self._is_idle(slots) & self._clean[pages]
        if not kept:
            chosen &= ~self._kept[pages]
        slots = self._latest(slots[chosen], count)
        self._slot[self._page[slots]] = -1
        self._page[slots] = -1
        self._free += slots.tolist()

    def _to_clean(self, count: int) -> Ids:
        """Up to `count` dirty pages that no step uses and that are not being written back."""
        slots = np.nonzero(self._page >= 0)[0]
        pages = self._page[slots]
        dirty = slots[self._is_idle(slots) & ~self._clean[pages] & (self._cleaning[pages] == 0)]
        return self._page[self._latest(dirty, count)]

    def _latest(self, slots: Ids, count: int) -> Ids:
        """Microbatches take turns, so the one that computed last is the last to need its pages again."""
        return slots[np.argsort(-self._step[slots], kind="stable")[: max(0, count)]]
