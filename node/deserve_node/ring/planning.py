"""How many microbatches a ring needs. Pure.

A ring with N_B microbatches gives one token to each of its rows every

    period(N_B) = max(N_B * max_i T_i, N_B * sum_i T_i / E, sum_i T_i + sum_i L_i)
    T_i = a_i + b_i * padded(rows / N_B)

where L_i is the one-way latency of hop i and E how many stages can compute at the same instant (fewer than there are
where stages share a machine's cores). More microbatches hide latency, fewer make larger and so cheaper ones; the best
number is where the terms meet. DeServe section 3 gives the case of equal stages on machines of their own.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deserve_network.control_messages import StageReady
from deserve_node.engine.batch import padded
from deserve_plan.plan import RingPlan

__all__ = ["RingTiming", "plan_for"]

MOST = 64
LATENCY_SLACK = 1.25
"""Hops are planned this much longer than measured, so that jitter finds a microbatch waiting rather than a bubble."""
FRAME_S = 0.004
"""Processor time that a stage spends on a step: encryption, thread changes, wake-ups (measured on loopback)."""


@dataclass(frozen=True, slots=True)
class RingTiming:
    """What a ring measured: seconds of a stage per step (`fixed_s`) and per row in it (`row_s`), of a hop one way.

    `parallel` is E, how many stages can compute at once.
    """

    fixed_s: tuple[float, ...]
    row_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    parallel: float

    @classmethod
    def measured(cls, stages: Sequence[StageReady]) -> RingTiming:
        row_s = tuple(s.cost.token_s + s.cost.wanted_s for s in stages)
        frame_s = FRAME_S if len(stages) > 1 else 0.0
        fixed_s = tuple(s.cost.fixed_s + frame_s for s in stages)
        hop_s = tuple(s.link.latency_s * LATENCY_SLACK for s in stages)
        machines: dict[str, list[StageReady]] = defaultdict(list)
        for stage in stages:
            machines[stage.machine].append(stage)
        parallel = sum(
            min(len(members), members[0].cores / max(1, members[0].threads)) for members in machines.values()
        )
        return cls(fixed_s, row_s, hop_s, max(1.0, parallel))

    def period_s(self, rows: int, microbatches: int) -> float:
        """Seconds between two tokens of a row, decoding only."""
        size = padded(-(-rows // microbatches))
        times = [fixed + size * row for fixed, row in zip(self.fixed_s, self.row_s, strict=True)]
        return max(
            microbatches * max(times),
            microbatches * sum(times) / self.parallel,
            sum(times) + sum(self.hop_s),
        )


@functools.lru_cache(maxsize=8192)
def microbatches_for(timing: RingTiming, rows: int) -> int:
    """The number of microbatches with the shortest period for `rows` rows; the smaller of two within 2 %."""
    if len(timing.fixed_s) == 1 or rows <= 1:
        return 1
    best, best_s = 1, timing.period_s(rows, 1)
    for count in range(2, min(MOST, rows) + 1):
        period = timing.period_s(rows, count)
        if period < best_s * 0.98:
            best, best_s = count, period
    return best


def plan_for(timing: RingTiming, rows: int, step_tokens: int) -> RingPlan:
    """The plan for so many rows; a step takes the time of `step_tokens` tokens at most."""
    microbatches = microbatches_for(timing, max(1, rows))
    budget_s = max(a + b * step_tokens for a, b in zip(timing.fixed_s, timing.row_s, strict=True))
    return RingPlan(microbatches, -(-rows // microbatches), budget_s, (0,) * len(timing.fixed_s))
