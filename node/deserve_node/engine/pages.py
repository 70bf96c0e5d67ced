"""Pages of KV: how many a sequence holds, and which.

Layers that look back equally far share a page table, called a *pool*. A pool knows its window (or chunk) and so
gives back pages that no later query can see. The arithmetic is pure and the head of a ring runs the same functions
as every stage: what the head has admitted is what a stage allocates, page for page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deserve_node.errors import NodeError
from deserve_node.kv_limits import DEFAULT_PAGE_TOKENS

__all__ = [
    "DEFAULT_PAGE_TOKENS",
    "OutOfPagesError",
    "PagePool",
    "PageTable",
    "PoolShape",
    "first_visible",
    "live_pages",
    "swapped_pages",
]


PageTable = npt.NDArray[np.int32]
"""Page ids [sequences, pages] by page number, -1 where a sequence has no page."""


class OutOfPagesError(NodeError):
    """A pool was asked for more pages than it has: the head's accounting and ours disagree."""


@dataclass(frozen=True, slots=True)
class PoolShape:
    """One pool: `window` and `chunk` in tokens (0 is off), how many pages of `page_tokens` tokens fit the device, and
    how many more of them fit host memory."""

    window: int
    chunk: int
    pages: int
    host_pages: int = 0
    page_tokens: int = DEFAULT_PAGE_TOKENS

    @property
    def capacity(self) -> int:
        """Pages that sequences can hold, wherever they are."""
        return self.pages + self.host_pages


def first_visible(position: int, window: int, chunk: int) -> int:
    """The oldest position that the query at `position` attends to."""
    first = max(0, position - window + 1) if window else 0
    return max(first, position // chunk * chunk) if chunk else first


def live_pages(start: int, count: int, window: int, chunk: int, page_tokens: int) -> range:
    """Page numbers (position // page_tokens) that a step over positions [start, start + count) reads or writes."""
    return range(first_visible(start, window, chunk) // page_tokens, (start + count - 1) // page_tokens + 1)


def swapped_pages(shapes: Sequence[PoolShape], swap_pages: int, microbatches: int, prefetch_depth: int) -> list[int]:
    """How many pages a microbatch swaps in each pool of a stage, where it swaps `swap_pages` in the largest: as many of
    the others in proportion, within what the device has for the steps that compute and come in, and host memory."""
    largest = max((shape.pages for shape in shapes), default=1)
    return [
        min(
            swap_pages * shape.pages // largest,
            shape.pages // (1 + prefetch_depth),
            shape.host_pages // max(1, microbatches),
        )
        for shape in shapes
    ]


class PagePool:
    """Allocator of one pool's pages; keeps the page table of every sequence in it.

    A table maps page number to page id and holds -1 where the page was given back.
    """

    def __init__(self, shape: PoolShape) -> None:
        self.shape = shape
        self._free = list(range(shape.capacity - 1, -1, -1))
        self._tables: dict[int, list[int]] = {}
        self._first: dict[int, int] = {}

    @property
    def used(self) -> int:
        return self.shape.capacity - len(self._free)

    def tables(self, sequences: Sequence[int]) -> PageTable:
        """The tables of several sequences, one below the other."""
        tables = [self._tables[sequence] for sequence in sequences]
        joined = np.full((len(tables), max(map(len, tables), default=0)), -1, dtype=np.int32)
        for row, pages in zip(joined, tables, strict=True):
            row[: len(pages)] = pages
        return joined

    def shrink(self, sequence: int, start: int) -> list[int]:
        """Give back what no query from position `start` on can see, and return it."""
        table = self._tables.get(sequence)
        if table is None or not (self.shape.window or self.shape.chunk):
            return []
        keep = first_visible(start, self.shape.window, self.shape.chunk) // self.shape.page_tokens
        first, keep = self._first[sequence], min(keep, len(table))
        if keep <= first:
            return []
        gone = table[first:keep]
        table[first:keep] = [-1] * len(gone)
        self._free += gone
        self._first[sequence] = keep
        return gone

    def grow(self, sequence: int, end: int) -> list[int]:
        """Make room for positions below `end`, and return the new pages. Raises `OutOfPagesError`."""
        table = self._tables.setdefault(sequence, [])
        self._first.setdefault(sequence, 0)
        missing = (end - 1) // self.shape.page_tokens + 1 - len(table)
        if missing > len(self._free):
            raise OutOfPagesError(f"sequence {sequence} needs {missing} pages, {len(self._free)} are free")
        new = [self._free.pop() for _ in range(missing)]
        table += new
        return new

    def release(self, sequence: int) -> list[int]:
        """Give back all pages of a sequence, and return them; one that holds none is no error."""
        gone = [page for page in self._tables.pop(sequence, ()) if page >= 0]
        self._first.pop(sequence, None)
        self._free += gone
        return gone
