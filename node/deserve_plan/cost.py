"""What a step costs a stage: a linear model over what the step is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StageCost", "StepLoad"]


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
