"""What a ring's rows are like, learnt as they start and end: how long, and in which codec they cross links. Pure.

A row that starts tells its prompt and how many tokens it may generate; only one that ends tells how many it did. Of
rows that started together the short ones end first, so ends are believed once as many rows have ended as have not.
"""

from __future__ import annotations

from collections import defaultdict

from deserve_plan.figures import Workload

__all__ = ["RowStatistics"]

LEAST_ROWS = 16
MEMORY_ROWS = 256
"""Rows after which the weight of one has fallen to 1/e."""
MOVED = 0.2
"""Relative change of a mean length that makes a plan outdated."""


class RowStatistics:
    """Running means; `assumed` holds until enough rows have started."""

    def __init__(self, assumed: Workload) -> None:
        self._assumed = assumed
        self._started = 0
        self._ended = 0
        self._left = 0
        self._prompt = assumed.prompt_tokens
        self._allowed = assumed.new_tokens
        self._used = 1.0
        """Part of the allowed tokens that rows generate."""
        self._codecs: dict[str, float] = defaultdict(float)
        """Weight of each among the rows."""

    def start(self, prompt_tokens: int, allowed_tokens: int, codec: str) -> None:
        """A row was taken on whose prompt has `prompt_tokens` and which may generate `allowed_tokens`."""
        self._started += 1
        weight = max(1 / self._started, 1 / MEMORY_ROWS)
        self._prompt += weight * (prompt_tokens - self._prompt)
        self._allowed += weight * (max(1, allowed_tokens) - self._allowed)
        for known in self._codecs:
            self._codecs[known] *= 1 - weight
        self._codecs[codec] += weight

    def end(self, allowed_tokens: int, new_tokens: int) -> None:
        """A row that might have generated `allowed_tokens` ended after `new_tokens`."""
        self._ended += 1
        weight = max(1 / self._ended, 1 / MEMORY_ROWS)
        self._used += weight * (min(1.0, new_tokens / max(1, allowed_tokens)) - self._used)

    def leave(self) -> None:
        """A row that had started will not end here."""
        self._left += 1

    def workload(self) -> Workload:
        """The rows to come, as far as rows so far tell."""
        if self._started < LEAST_ROWS:
            return self._assumed
        used = self._used if self._ended >= max(LEAST_ROWS, (self._started - self._left) / 2) else 1.0
        return Workload(self._prompt, max(1.0, self._allowed * used))

    @property
    def codec(self) -> str:
        """Of most rows; "raw" before there are any."""
        return max(self._codecs, key=self._codecs.__getitem__, default="raw")

    def moved(self, planned: Workload) -> bool:
        """Whether a plan for `planned` is outdated."""
        now = self.workload()
        return any(
            abs(is_now - was) > MOVED * max(was, 1.0)
            for is_now, was in ((now.prompt_tokens, planned.prompt_tokens), (now.new_tokens, planned.new_tokens))
        )
