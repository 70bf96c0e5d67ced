"""What a step costs a stage: a linear model over what the step is made of. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["StageCost", "StepLoad", "largest_chunk"]


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step asks of a stage. Loads of a step's parts add up to that of the step.

    `tokens` are the new tokens, decodes and prompts together; `wanted` those whose logits the tail computes; `context`
    the keys that rows with one new token read, summed; `pairs` the (query, key) pairs of longer chunks, summed.
    """

    tokens: int = 0
    wanted: int = 0
    context: int = 0
    pairs: int = 0

    @classmethod
    def of_chunk(cls, start: int, count: int, wanted: int) -> StepLoad:
        """`count` tokens of one row from position `start` on."""
        if count == 1:
            return cls(1, wanted, start + 1, 0)
        return cls(count, wanted, 0, count * start + count * (count + 1) // 2)

    def __add__(self, other: StepLoad) -> StepLoad:
        return StepLoad(
            self.tokens + other.tokens,
            self.wanted + other.wanted,
            self.context + other.context,
            self.pairs + other.pairs,
        )


@dataclass(frozen=True, slots=True)
class StageCost:
    """Seconds of a stage for a step: `fixed_s` plus seconds per unit of each part of its load.

    Tokens are computed in multiples of `granularity`.
    """

    fixed_s: float
    token_s: float
    wanted_s: float = 0.0
    context_s: float = 0.0
    pair_s: float = 0.0
    granularity: int = 1

    def step_s(self, load: StepLoad) -> float:
        """Seconds of one step of this load; 0 tokens cost the fixed part alone."""
        tokens = -(-load.tokens // self.granularity) * self.granularity
        return (
            self.fixed_s
            + self.token_s * tokens
            + self.wanted_s * load.wanted
            + self.context_s * load.context
            + self.pair_s * load.pairs
        )


def largest_chunk(
    cost: StageCost, load: StepLoad, start: int, budget_s: float, most: int, *, scored: bool = False
) -> int:
    """How many tokens of one row, from position `start` on and at most `most`, join a step of `load` within `budget_s`.

    0 where none does. The attention of a chunk costs the (query, key) pairs that it adds, so that late chunks of a long
    prompt come out shorter and take as long as early ones (Mnemosyne, arXiv:2409.17264, section 4). Where the budget
    ends within a granule the chunk ends before it: half a granule costs as much as a whole one. `scored`: the logits of
    every token are wanted.
    """
    left_s = budget_s - cost.fixed_s - cost.wanted_s * load.wanted
    left_s -= cost.context_s * load.context + cost.pair_s * load.pairs + cost.token_s * load.tokens
    if most <= 0 or left_s < 0:
        return 0
    # pair_s / 2 * n^2 + linear * n = left_s, granules aside.
    linear = cost.token_s + cost.pair_s * (start + 0.5) + (cost.wanted_s if scored else 0.0)
    if cost.pair_s > 0:
        exact = (math.sqrt(linear * linear + 2 * cost.pair_s * left_s) - linear) / cost.pair_s
    else:
        exact = left_s / linear if linear > 0 else float(most)
    count = most if exact >= most else int(exact)
    rounding = -(load.tokens + count) % cost.granularity
    if count * linear + cost.pair_s * count * count / 2 + cost.token_s * rounding <= left_s:
        return count
    return max(0, (load.tokens + count) // cost.granularity * cost.granularity - load.tokens)
