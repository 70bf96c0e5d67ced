"""When the last row is done: filling the ring, running it, and letting it run empty. Pure.

A cycle gives every running row one token. Rows enter as fast as steps have room for their prompts, run for as many
cycles as they generate tokens, and where no more rows wait the microbatches get fewer before they get smaller. A long
batch is followed over three rings full of rows; what is more than that runs at the steady rate.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from deserve_plan.figures import RingFigures, Workload
from deserve_plan.filling import budgets
from deserve_plan.memory import planned_copies
from deserve_plan.plan import RingPlan
from deserve_plan.steady import PROMPT_SLACK, MeanLoad, RingTimes, period_s

__all__ = ["finish_s"]

FOLLOWED_RINGS = 3
STRIDES = 64
"""A row's life is followed in so many strides of equal cycles."""
TINY = 1e-6
FIRST_TOKEN_CYCLES = 1.5
"""What a row's first token takes beyond a cycle: its prompt waits for its turn, and the row then for its microbatch."""
SHARED_CYCLES = 9
"""Cycles over which prompts that wait are shared out while the ring fills."""
GRAIN = 32
"""Cycles whose loads differ by less than a part in so many are taken for the same."""


def finish_s(figures: RingFigures, workload: Workload, plan: RingPlan, rows: float, tokens_per_s: float) -> float:
    """Seconds until `workload.rows` rows are done, of which `rows` at most run at once, at `tokens_per_s` then."""
    followed = min(float(workload.rows), FOLLOWED_RINGS * rows)
    rest_s = (workload.rows - followed) * workload.new_tokens / tokens_per_s
    per_step = rows / plan.microbatches
    cycle = _Cycle(figures, workload, plan, per_step)
    step_tokens = per_step * (1 + PROMPT_SLACK * workload.prompt_tokens / workload.new_tokens)
    slowest = max((stage.cost for stage in figures.stages), key=lambda cost: cost.fixed_s + cost.token_s * step_tokens)
    fixed_tokens = slowest.fixed_s / slowest.token_s if slowest.token_s else 0.0
    stride = max(1.0, workload.new_tokens / STRIDES)
    waiting, running, done, elapsed = followed, 0.0, 0.0, 0.0
    ends: deque[tuple[float, float]] = deque()
    # Rows whose prompts are on their way are admitted beyond those that decode.
    most = rows * (1 + FIRST_TOKEN_CYCLES / workload.new_tokens)
    while waiting or ends:
        under_way = min(rows, running + waiting)
        microbatches = min(plan.microbatches, max(1, math.ceil(under_way / per_step - 1e-9)))
        decodes = min(rows, running) / microbatches
        longest = (budgets(min(rows, running) / rows) - 1.0) * (step_tokens + fixed_tokens) + step_tokens - decodes
        # Beyond its budget a step takes no more than its share of what waits.
        share = min(waiting, most - running) * workload.prompt_tokens / microbatches / SHARED_CYCLES
        room = microbatches * stride * max(step_tokens - decodes, min(share, longest), 0.0)
        entering = min(waiting, most - running, room / max(workload.prompt_tokens, 1e-9))
        prompt = entering * workload.prompt_tokens / stride / microbatches
        elapsed += stride * cycle.seconds(microbatches, decodes, prompt)
        done += stride
        waiting -= entering
        running += entering
        # What rounding leaves of a row would live a life of its own.
        waiting = waiting if waiting > TINY else 0.0
        if entering > TINY:
            ends.append((done + workload.new_tokens - stride + FIRST_TOKEN_CYCLES, entering))
        while ends and ends[0][0] <= done + 1e-9:
            running -= ends.popleft()[1]
    return elapsed + rest_s


class _Cycle:
    """Seconds of a cycle by what its steps carry; equal ones are computed once."""

    def __init__(self, figures: RingFigures, workload: Workload, plan: RingPlan, per_step: float) -> None:
        self._figures = figures
        self._workload = workload
        self._plan = plan
        self._grain = max(1.0, per_step / GRAIN)
        self._prompt_grain = max(1.0, per_step * workload.prompt_tokens / workload.new_tokens / GRAIN)
        self._known: dict[tuple[int, int, int], float] = {}

    def seconds(self, microbatches: int, decodes: float, prompt: float) -> float:
        key = (microbatches, round(decodes / self._grain), round(prompt / self._prompt_grain))
        if key not in self._known:
            self._known[key] = self._seconds(microbatches, decodes, prompt)
        return self._known[key]

    def _seconds(self, microbatches: int, decodes: float, prompt: float) -> float:
        work = self._workload
        prompts = prompt / max(work.prompt_tokens, 1e-9)
        load = MeanLoad.carrying(work, np.array([decodes]), np.array([prompts]))
        plan = self._plan
        moved = planned_copies(self._figures, work, plan, load.rows)
        times = RingTimes(self._figures, load, plan.codec, plan.coalesce, copies=moved)
        slot = times.slot_s()
        return float(period_s(microbatches, slot, times.trip_s(slot))[0])
