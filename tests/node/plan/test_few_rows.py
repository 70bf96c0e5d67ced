"""Plans of rings that have too few rows to keep their stages at work, and of a batch's last rows."""

from __future__ import annotations

import dataclasses

from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.predict import predict
from deserve_plan.solve import IDLE_TIE, solve

ROWS = Workload(72, 64)
LAST_ROWS = dataclasses.replace(ROWS, more_to_come=False)


def ring(granularity: int = 1) -> RingFigures:
    stage = StageFigures(StageCost(0.003, 0.00045, granularity=granularity), StageMemory(16, 10_000))
    return RingFigures((stage,) * 2, (LinkFigures(0.064),) * 2, hidden=512, value_bytes=4)


def test_idle_stages_are_not_spent_on_many_small_steps() -> None:
    figures = ring()
    plan = solve(figures, ROWS, max_rows=64)
    rates = []
    for microbatches in range(1, 65):
        other = dataclasses.replace(plan, microbatches=microbatches, rows_per_microbatch=-(-64 // microbatches))
        rates.append(predict(figures, ROWS, dataclasses.replace(other, step_budget_s=0.0), max_rows=64).tokens_per_s)
    assert plan.predicted is not None
    assert plan.predicted.tokens_per_s >= max(rates) * (1 - 2 * IDLE_TIE)
    assert max(plan.predicted.utilisation) < 0.8
    assert plan.microbatches < 1 + rates.index(max(rates))


def test_the_last_rows_of_a_batch_are_planned_without_prompts() -> None:
    plan = solve(ring(granularity=16), LAST_ROWS, max_rows=64)
    # Steps of decodes alone are padded to 16, and fill that; prompts beside them would have filled what rows do not.
    assert (plan.microbatches, plan.rows_per_microbatch) == (4, 16)


def test_rows_without_prompts_to_come_take_less() -> None:
    with_prompts = solve(ring(), ROWS, max_rows=256).predicted
    last = solve(ring(), LAST_ROWS, max_rows=256).predicted
    assert with_prompts is not None
    assert last is not None
    assert last.tokens_per_s > 1.5 * with_prompts.tokens_per_s
