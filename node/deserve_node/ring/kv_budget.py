"""The head's account of KV pages on every stage of its ring. Pure.

Pools of equal window, chunk and page size on different stages hold the same pages of the same sequences, so one account
per kind against the smallest such pool covers all stages. The head books a step's pages when it schedules the step;
stages see the steps in the same order, so no stage is ever asked for a page that it does not have. A prompt's pages are
reserved when its row is admitted: rows half way through their prompts cannot starve one another.
"""

from __future__ import annotations

from collections.abc import Iterable

from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS, PoolShape, live_pages

__all__ = ["KvBudget"]

_Kind = tuple[int, int, int]
"""Window, chunk, tokens a page."""


class KvBudget:
    """Pages booked per kind of pool. `shapes` are the pools of all stages."""

    def __init__(self, shapes: Iterable[PoolShape]) -> None:
        self._limits: dict[_Kind, int] = {}
        for shape in shapes:
            kind = (shape.window, shape.chunk, shape.page_tokens)
            self._limits[kind] = min(self._limits.get(kind, shape.capacity), shape.capacity)
        self._used = dict.fromkeys(self._limits, 0)
        self._booked: dict[int, dict[_Kind, int]] = {}
        self._reserved: dict[int, dict[_Kind, int]] = {}

    @property
    def page_tokens(self) -> int:
        """Of the largest pages."""
        return max((kind[2] for kind in self._limits), default=DEFAULT_PAGE_TOKENS)

    @property
    def pages(self) -> int:
        return sum(self._limits.values())

    @property
    def used(self) -> int:
        return sum(self._used.values())

    def can_ever_hold(self, tokens: int, chunk_tokens: int) -> bool:
        """Whether a row of `tokens` in all fits an empty ring, fed in chunks of at most `chunk_tokens`."""
        return all(pages <= self._limits[kind] for kind, pages in self._row_pages(tokens, chunk_tokens).items())

    def fits_row(self, tokens: int, chunk_tokens: int) -> bool:
        """Whether a new row of `tokens` fits beside what is booked."""
        need = self._row_pages(tokens, chunk_tokens)
        return all(self._used[kind] + pages <= self._limits[kind] for kind, pages in need.items())

    def reserve(self, sequence: int, tokens: int, chunk_tokens: int) -> None:
        """Hold a prompt's pages until its chunks have booked them."""
        self._reserved[sequence] = self._row_pages(tokens, chunk_tokens)
        self._hold(sequence, self._reserved[sequence])

    def fits(self, start: int, count: int, sequence: int) -> bool:
        """Whether the step of `sequence` over [start, start + count) fits beside what others have booked."""
        booked = self._booked.get(sequence, {})
        need = self._step_pages(sequence, start, count)
        return all(self._used[kind] - booked.get(kind, 0) + pages <= self._limits[kind] for kind, pages in need.items())

    def book(self, sequence: int, start: int, count: int) -> None:
        """Book the pages of a step; the caller has asked `fits`."""
        self._hold(sequence, self._step_pages(sequence, start, count))

    def release(self, sequence: int) -> None:
        self._reserved.pop(sequence, None)
        for kind, pages in self._booked.pop(sequence, {}).items():
            self._used[kind] -= pages

    def _hold(self, sequence: int, pages: dict[_Kind, int]) -> None:
        booked = self._booked.setdefault(sequence, dict.fromkeys(self._limits, 0))
        for kind, count in pages.items():
            self._used[kind] += count - booked[kind]
            booked[kind] = count

    def _step_pages(self, sequence: int, start: int, count: int) -> dict[_Kind, int]:
        floor = self._reserved.get(sequence, {})
        return {kind: max(floor.get(kind, 0), len(live_pages(start, count, *kind))) for kind in self._limits}

    def _row_pages(self, tokens: int, chunk_tokens: int) -> dict[_Kind, int]:
        last = max(0, tokens - chunk_tokens)
        return {kind: len(live_pages(last, max(1, tokens - last), *kind)) for kind in self._limits}
