"""What rows will still need: tokens that they have yet to generate, and KV pages that they will hold when. Pure.

Admitting by the pages that rows hold today fills memory with rows that then grow and throw each other out; admitting
by the most they may grow leaves half of it empty. Between them lies what rows that ended have shown: a row is
admitted where the largest sum of pages at any time to come fits (Gong et al., Past-Future Scheduler, ASPLOS 2025,
arXiv:2507.10150).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

__all__ = ["ExpectedTokens", "PageForecast"]

REMEMBERED = 512
"""Rows that ended, on which the expectation rests."""
REFRESH = 16
"""Rows that end between two looks at them all."""
PRIOR_ROWS = 4
PRIOR_TOKENS = 512
"""Before rows have ended they are expected to reach their limit, or this."""


class ExpectedTokens:
    """The mean of what rows generated that had come at least as far."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._sorted: list[int] = []
        self._sums: list[int] = [0]
        self._stale = 0

    @property
    def mean(self) -> float:
        """Tokens that a row generates; `PRIOR_TOKENS` before one has ended."""
        return self._sums[-1] / max(1, len(self._sums) - 1) if len(self._sums) > 1 else float(PRIOR_TOKENS)

    def ended(self, generated: int) -> None:
        """A row ended by itself."""
        self._order.append(generated)
        insort(self._sorted, generated)
        if len(self._order) > REMEMBERED:
            del self._sorted[bisect_right(self._sorted, self._order.popleft()) - 1]
        self._stale += 1
        if self._stale >= min(REFRESH, len(self._order)):
            self._sums = [0, *accumulate(self._sorted)]
            self._stale = 0

    def remaining(self, generated: int, most: int) -> int:
        """Tokens that a row of `generated` has probably yet to generate, at least 1. `most` bounds its total; 0 does
        not."""
        known = len(self._sums) - 1
        shorter = min(known, bisect_right(self._sorted, generated))
        prior = max(PRIOR_TOKENS, 2 * generated)
        if most:
            prior = min(most, prior)
        total = (self._sums[known] - self._sums[shorter] + PRIOR_ROWS * prior) / (known - shorter + PRIOR_ROWS)
        if most:
            total = min(most, total)
        return max(1, round(total) - generated)


class PageForecast:
    """Pages over time, per kind of pool. Time is in turns (tokens of a decoding row), in steps of `turns`.

    Every sequence is expected to grow by a token a turn from `tokens` to `tokens + remaining` and then to leave. What
    it holds at a length is `pages_at` of the caller: int64 [kinds, lengths].
    """

    def __init__(self, kinds: int, turns: int) -> None:
        self._turns = turns
        self._profile = np.zeros((kinds, 64), dtype=np.int64)
        self._base = 0
        """Time of the profile's first column."""
        self._now = 0
        self._clock = 0.0
        self._expected: dict[int, tuple[int, np.ndarray]] = {}
        """Since when, and pages from then on."""

    def advance(self, turns: float) -> None:
        """Time passes."""
        self._clock += turns
        self._now = int(self._clock // self._turns)

    def lengths(self, tokens: int, remaining: int) -> np.ndarray:
        """Lengths of a row at each time to come, int64."""
        growth = np.arange(0, remaining + self._turns, self._turns, dtype=np.int64)
        return tokens + np.minimum(growth, remaining)

    def peak_with(self, pages: np.ndarray) -> np.ndarray:
        """The most pages, per kind, at any time to come, if a row that will hold `pages` [kinds, times] came too."""
        profile = self._profile[:, self._now - self._base :]
        both = min(profile.shape[1], pages.shape[1])
        peak = profile.max(axis=1, initial=0)
        peak = np.maximum(peak, (profile[:, :both] + pages[:, :both]).max(axis=1, initial=0))
        highest: np.ndarray = np.maximum(peak, pages[:, both:].max(axis=1, initial=0))
        return highest

    def outdated(self, sequence: int, pages: Sequence[int]) -> bool:
        """Whether a row that holds `pages` now was expected to be elsewhere, or gone."""
        since, expected = self._expected[sequence]
        index = self._now - since
        return index >= expected.shape[1] or bool(np.abs(expected[:, index] - pages).max() > 1)

    def expect(self, sequence: int, pages: np.ndarray) -> None:
        """A row will hold `pages` [kinds, times] from now on. Replaces what was expected of it."""
        self.forget(sequence)
        end = self._now - self._base + pages.shape[1]
        if end > self._profile.shape[1]:
            self._make_room(pages.shape[1])
        first = self._now - self._base
        self._profile[:, first : first + pages.shape[1]] += pages
        self._expected[sequence] = (self._now, pages)

    def forget(self, sequence: int) -> None:
        """The row has left; one that was not expected is no error."""
        if (found := self._expected.pop(sequence, None)) is None:
            return
        since, pages = found
        gone = max(0, self._base - since)
        if gone < pages.shape[1]:
            first = since + gone - self._base
            self._profile[:, first : first + pages.shape[1] - gone] -= pages[:, gone:]

    def _make_room(self, times: int) -> None:
        """Drop what is past, and have room for `times` from now on."""
        past = self._now - self._base
        kept = self._profile[:, past:]
        self._profile = np.zeros((kept.shape[0], max(64, 2 * times, kept.shape[1])), dtype=np.int64)
        self._profile[:, : kept.shape[1]] = kept
        self._base = self._now
