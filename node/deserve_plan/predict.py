"""What a ring does under a given plan: tokens per second, who is how busy, and what holds it back. Pure."""

from __future__ import annotations

import numpy as np

from deserve_plan.figures import RingFigures, Workload
from deserve_plan.finish import finish_s
from deserve_plan.memory import planned_copies, rows_held
from deserve_plan.plan import Prediction, RingPlan, Unplannable
from deserve_plan.steady import MeanLoad, RingTimes, mean_step_s, period_s, step_costs

__all__ = ["predict", "rows_in_flight"]


def predict(figures: RingFigures, workload: Workload, plan: RingPlan, *, max_rows: int = 0) -> Prediction:
    """Steady state under `plan`, whose own `predicted` is not looked at, with at most `max_rows` rows (0: any number).

    Fewer rows than planned run where KV memory, the step budget or the workload's rows do not carry more. Raises
    `Unplannable` where plan, stages and links do not belong together.
    """
    _check(figures, plan)
    rows, limit = rows_in_flight(figures, workload, plan, max_rows)
    per_step = np.array([rows / plan.microbatches])
    moved = planned_copies(figures, workload, plan, per_step)
    times = RingTimes(figures, MeanLoad.of(workload, per_step), plan.codec, plan.coalesce, copies=moved)
    slot = times.slot_s()
    period = float(period_s(plan.microbatches, slot, times.trip_s(slot))[0])
    step_s = tuple(float(step) for step in times.step_s[:, 0])
    waits = plan.microbatches * float(slot[0]) < period * (1 - 1e-9)
    return Prediction(
        tokens_per_s=rows / period,
        period_s=period,
        step_s=step_s,
        utilisation=tuple(min(1.0, plan.microbatches * step / period) for step in step_s),
        bound=limit if waits else _busiest(times),
        finish_s=finish_s(figures, workload, plan, rows, rows / period) if workload.rows else 0.0,
    )


def rows_in_flight(figures: RingFigures, workload: Workload, plan: RingPlan, max_rows: int = 0) -> tuple[float, str]:
    """Rows that run at once, on average, and what keeps them from being more, in an operator's words."""
    count = plan.microbatches
    rows, limit = float(count * plan.rows_per_microbatch), "latency"
    for most in (workload.rows, max_rows):
        if most and most < rows:
            rows, limit = float(most), "rows in flight"
    for index, (stage, pages) in enumerate(zip(figures.stages, plan.swap_pages, strict=True)):
        held = count * rows_held(stage.memory, workload, count, plan.prefetch_depth, pages)
        if held < rows:
            rows, limit = held, f"KV memory of stage {index}"
    if plan.step_budget_s > 0:
        fractions = np.linspace(1.0, 0.01, 100)
        load = MeanLoad.of(workload, fractions * rows / count)
        slowest = np.max([mean_step_s(cost, load) for cost in step_costs(figures, plan.codec)], axis=0)
        within = fractions[slowest <= plan.step_budget_s * (1 + 1e-9)]
        if not within.size or within[0] < 1.0:
            rows, limit = rows * float(within[0] if within.size else fractions[-1]), "step budget"
    return rows, limit


def _busiest(times: RingTimes) -> str:
    """The resource that is busy all the time; of equals, the one that an operator sees first."""
    cores = [", ".join(map(str, members)) for members in times.machines]
    named = [
        *((float(busy), f"compute of stage {index}") for index, busy in enumerate(times.step_s[:, 0])),
        *((float(busy), f"uplink of stage {index}") for index, busy in enumerate(times.link_s[:, 0])),
        *((float(busy), f"host copies of stage {index}") for index, busy in enumerate(times.copy_s[:, 0])),
        *((float(busy), f"cores of stages {who}") for busy, who in zip(times.core_s[:, 0], cores, strict=True)),
    ]
    most = max(busy for busy, _ in named)
    return next(name for busy, name in named if busy >= most * (1 - 1e-9))


def _check(figures: RingFigures, plan: RingPlan) -> None:
    stages = len(figures.stages)
    if len(plan.swap_pages) != stages:
        raise Unplannable(f"swap_pages: {len(plan.swap_pages)} for {stages} stages")
    if len(figures.links) != (stages if stages > 1 else 0):
        raise Unplannable(f"links: {len(figures.links)} for {stages} stages")
    for name in ("microbatches", "rows_per_microbatch", "prefetch_depth", "coalesce"):
        if getattr(plan, name) < 1:
            raise Unplannable(f"{name}: {getattr(plan, name)} is less than 1")
