"""How many tokens of prompts a step takes beside its decodes. Pure.

A step takes what fits its time budget T, which is time on the slowest stage or link and not a number of tokens
(stall-free batching as in Sarathi-Serve, arXiv:2403.02310): context makes late chunks dearer. In steady state it takes
less where less waits: prompts come in bursts, and a burst is spread over the steps of a few turns, so that steps take
equally long. While the ring fills, fewer rows decode that a long step could hold up: there steps take up to several T
where enough waits, and so spend less of their time on what every step costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deserve_plan.cost import StageCost, StepLoad, largest_chunk
from deserve_plan.filling import budgets

__all__ = ["PromptPace"]

SMOOTHING_TURNS = 2
"""Turns of all microbatches over which waiting prompts are spread."""
LEAST_TOKENS = 16
"""A prompt moves on by so many tokens even where decodes take the whole budget."""


@dataclass(slots=True)
class PromptPace:
    """Of one step, on stages and links of these `costs`. `load` is what the step holds so far.

    It takes at most `most` prompt tokens, those that fit `budget_s`, and up to `least` of them where `budgets` times
    that is enough.
    """

    costs: Sequence[StageCost]
    budget_s: float
    load: StepLoad
    most: int
    least: int = 0
    budgets: float = 1.0
    taken: int = 0

    @classmethod
    def steady(
        cls, costs: Sequence[StageCost], budget_s: float, load: StepLoad, waiting: int, microbatches: int
    ) -> PromptPace:
        """`waiting` prompt tokens are spread over turns of `microbatches` steps."""
        share = -(-waiting // (microbatches * SMOOTHING_TURNS))
        # Granules are paid whole.
        share += -(load.tokens + share) % max(cost.granularity for cost in costs)
        return cls(costs, budget_s, load, share)

    @classmethod
    def filling(
        cls, costs: Sequence[StageCost], budget_s: float, load: StepLoad, waiting: int, steps: int, share: float
    ) -> PromptPace:
        """`waiting` prompt tokens are shared out among the `steps` that can be in flight; of the planned rows `share`
        decode."""
        return cls(costs, budget_s, load, waiting, -(-waiting // steps), budgets(share))

    def take(self, start: int, most: int, *, scored: bool) -> int:
        """The next chunk of a row: how many tokens from position `start`, at most `most`; 0: the step is full."""
        count = self._fit(start, self.budget_s, min(most, self.most - self.taken), scored)
        missing = min(most, self.least - self.taken)
        if count < missing:
            count = max(count, self._fit(start, self.budget_s * self.budgets, missing, scored))
        if count <= 0 and self.taken == 0:
            count = min(most, LEAST_TOKENS)
        return self._taken(start, count, scored)

    def take_whole(self, start: int, most: int, *, scored: bool) -> int:
        """All of a row that may come, however long that takes; 0 where the step is full already."""
        full = self.taken and self._fit(start, self.budget_s, most, scored) < most
        return self._taken(start, 0 if full else most, scored)

    def _taken(self, start: int, count: int, scored: bool) -> int:
        if count:
            self.load += StepLoad.of_chunk(start, count, count if scored else 0)
            self.taken += count
        return count

    def _fit(self, start: int, budget_s: float, most: int, scored: bool) -> int:
        return min(largest_chunk(cost, self.load, start, budget_s, most, scored=scored) for cost in self.costs)
