"""Copies between the two memories: what they cost a plan where cores do the copying, and where an engine does."""

from __future__ import annotations

import dataclasses

import pytest

from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan
from deserve_plan.predict import predict
from deserve_plan.solve import solve
from deserve_plan.steady import CORE_COPY_BYTES_PER_S

WORK = Workload(32, 64)
MEMORY = StageMemory(16, 400, page_bytes=1 << 16, host_pages=100_000, copy_in_bytes_per_s=8e9, copy_out_bytes_per_s=8e9)
STAGE = StageFigures(StageCost(0.002, 0.0004), MEMORY, machine="one", cores=2)


def ring(stage: StageFigures, latency_s: float) -> RingFigures:
    return RingFigures((stage,) * 4, (LinkFigures(latency_s),) * 4, hidden=512, value_bytes=4)


def test_cores_that_copy_do_not_compute() -> None:
    plan = RingPlan(17, 30, 0.0, (120,) * 4)
    stages = [dataclasses.replace(STAGE, occupies_cores=occupies) for occupies in (True, False)]
    copying, free = (predict(ring(stage, 0.0), WORK, plan) for stage in stages)
    assert free.bound == "compute of stage 0"
    assert copying.bound == "cores of stages 0, 1, 2, 3"
    # Four stages that compute on two cores, and what their copies take of these.
    copy_core_s = copying.period_s / 17 - 4 * copying.step_s[0] / 2
    moved = copy_core_s * 2 / 4 * CORE_COPY_BYTES_PER_S
    # 120 pages come in, and as many go out as a step writes of those: one a row and 15 of prompts, of 148.
    assert moved / MEMORY.page_bytes == pytest.approx(147.2, rel=0.02)


def test_cores_copy_only_what_latency_makes_worth_it() -> None:
    near = solve(ring(STAGE, 0.0), WORK, max_rows=1024)
    far = solve(ring(STAGE, 0.256), WORK, max_rows=1024)
    assert max(near.swap_pages) < min(far.swap_pages) / 4
