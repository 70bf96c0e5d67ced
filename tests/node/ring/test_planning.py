"""The head's planner: plans for fewer rows come when they are solved, and steps that take longer bring another plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from deserve_node.ring.planning import ASSUMED_WORKLOAD, Planner
from deserve_plan.cost import StageCost, StepLoad
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory
from deserve_plan.keeper import ReturnedStep
from deserve_plan.plan import PlanOverrides

FIXED_S, TOKEN_S, HOP_S = 0.02, 0.001, 0.064


def planner(overrides: PlanOverrides | None = None, clock: Callable[[], float] = time.monotonic) -> Planner:
    stages = tuple(
        StageFigures(StageCost(FIXED_S, TOKEN_S), StageMemory(16, 10_000), machine=name, occupies_cores=False)
        for name in "abcd"
    )
    links = (LinkFigures(HOP_S),) * 4
    return Planner(RingFigures(stages, links, 512, 4), max_rows=256, step_tokens=2048, overrides=overrides, clock=clock)


async def test_the_plan_for_fewer_rows_is_there_once_it_is_solved() -> None:
    ring = planner()
    assert ring.plan_for(8, True) is None
    assert ring.plan_for(4, True) is None
    async with asyncio.timeout(30):
        assert not await ring.solve_next()
    few = ring.plan_for(4, True)
    assert few is not None
    assert few.microbatches * few.rows_per_microbatch < 8 < ring.plan.microbatches * ring.plan.rows_per_microbatch


async def test_steps_that_take_half_as_long_again_bring_another_plan() -> None:
    ring = planner()
    before = ring.plan
    rows, microbatches = before.rows_per_microbatch, before.microbatches
    compute_s = 1.5 * (FIXED_S + TOKEN_S * 3 * rows)
    for step in range(1000):
        load = StepLoad(3 * rows, rows, rows * 300, 0)
        trip_s = 4 * (compute_s + HOP_S)
        now_s = step * max(compute_s, trip_s / microbatches)
        times = (compute_s,) * 4
        ring.returned(ReturnedStep(now_s, load, 2 * rows, rows, 0, times, rows * microbatches, microbatches))
    async with asyncio.timeout(30):
        assert await ring.solve_next()
    assert ring.plan != before
    assert ring.report().plans == 2


def test_a_ring_with_next_to_no_memory_runs_a_row_at_a_time() -> None:
    stage = StageFigures(StageCost(FIXED_S, TOKEN_S), StageMemory(1, 4), occupies_cores=False)
    figures = RingFigures((stage,) * 2, (LinkFigures(HOP_S),) * 2, 512, 4)
    plan = Planner(figures, max_rows=16, step_tokens=256).plan
    assert (plan.microbatches, plan.rows_per_microbatch) == (1, 1)


async def test_a_plan_set_by_hand_holds() -> None:
    ring = planner(PlanOverrides(microbatches=3, rows=5))
    assert ring.plan_for(4, False) == ring.plan
    assert (ring.plan.microbatches, ring.plan.rows_per_microbatch) == (3, 5)
    assert (ring.report().microbatches, ring.report().rows_per_microbatch) == (3, 5)


async def test_the_codecs_are_proposed_that_help_a_slow_link() -> None:
    slow = RingFigures(
        tuple(StageFigures(StageCost(0.001, 0.0001), StageMemory(16, 10_000), machine=name) for name in "ab"),
        (LinkFigures(0.01, bytes_per_s=1e5),) * 2,
        512,
        4,
    )
    ring = Planner(slow, max_rows=256, step_tokens=2048)
    assert ring.proposed_codecs is None
    await ring.propose_codecs()
    assert ring.proposed_codecs == ("int8", "bf16")
    by_hand = Planner(slow, max_rows=256, step_tokens=2048, overrides=PlanOverrides(codec="bf16"))
    await by_hand.propose_codecs()
    assert by_hand.proposed_codecs == ("bf16",)


async def test_the_end_is_told_from_the_rows_that_are_left_and_comes_nearer() -> None:
    now_s = 50.0
    ring = planner(clock=lambda: now_s)
    assert ring.report().predicted_finish_s == 0.0
    ends = []
    for rows in (1000.0, 2000.0):
        ring.rows_left(rows)
        async with asyncio.timeout(30):
            assert not await ring.solve_next()
        ends.append(ring.report().predicted_finish_s)
    steady_s = 1000 * ASSUMED_WORKLOAD.new_tokens / ring.report().predicted_tokens_per_s
    assert ends[1] - ends[0] == pytest.approx(steady_s, rel=0.02)
    now_s += 10.0
    assert ring.report().predicted_finish_s == pytest.approx(ends[1] - 10.0)
    now_s += ends[1]
    assert ring.report().predicted_finish_s == 0.0
