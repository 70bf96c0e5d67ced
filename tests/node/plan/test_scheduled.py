"""Predictions against the head's own scheduler, rows of uneven lengths, and rings of every kind."""

from __future__ import annotations

import dataclasses
import random

import pytest
from scheduled_ring import run_batch

from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan
from deserve_plan.predict import predict
from deserve_plan.solve import solve

AMPLE = StageMemory(16, 10**6)
WAVES = 5


def ring(
    stages: list[tuple[float, float]],
    latencies: list[float],
    *,
    bytes_per_s: float = 0.0,
    granularity: int = 1,
    context_s: float = 0.0,
    pages: int = 10**6,
) -> RingFigures:
    memory = dataclasses.replace(AMPLE, device_pages=pages)
    return RingFigures(
        tuple(
            StageFigures(StageCost(fixed, token, context_s=context_s, granularity=granularity), memory)
            for fixed, token in stages
        ),
        tuple(LinkFigures(latency, 0.0, bytes_per_s) for latency in latencies),
        hidden=1000,
        value_bytes=4,
    )


EVEN = [(0.02, 0.0005)] * 4
SETTINGS = {
    "no latency": (ring(EVEN, [0.0] * 4), 200, Workload(64, 64)),
    "64 ms": (ring(EVEN, [0.064] * 4), 300, Workload(64, 64)),
    "256 ms": (ring(EVEN, [0.256] * 4), 400, Workload(64, 64)),
    "few rows": (ring(EVEN, [0.256] * 4), 60, Workload(64, 64)),
    "eight stages": (ring([(0.03, 0.0003)] * 8, [0.03] * 8), 250, Workload(64, 64)),
    "one slow stage": (ring([(0.01, 0.0003), (0.03, 0.0008), (0.01, 0.0003)], [0.05] * 3), 200, Workload(64, 64)),
    "one far stage": (ring(EVEN, [0.005, 0.2, 0.2, 0.005]), 300, Workload(64, 64)),
    "narrow uplinks": (ring(EVEN, [0.03] * 4, bytes_per_s=1e6), 200, Workload(64, 64)),
    "long prompts": (ring([(0.01, 0.001)] * 3, [0.1] * 3), 100, Workload(200, 50)),
    "short prompts": (ring(EVEN, [0.05] * 4), 150, Workload(10, 100)),
    "little memory": (ring(EVEN, [0.05] * 4, pages=1500), 1000, Workload(64, 64)),
    "padded steps": (ring([(0.005, 0.001)] * 2, [0.02] * 2, granularity=16), 100, Workload(64, 64)),
    "dear context": (ring([(0.01, 0.0005)] * 3, [0.05] * 3, context_s=2e-6), 150, Workload(100, 100)),
    "alone": (ring([(0.01, 0.0005)], []), 64, Workload(64, 64)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_planned_ring_does_as_predicted(setting: str) -> None:
    figures, max_rows, workload = SETTINGS[setting]
    draw = random.Random(setting)
    total = WAVES * min(max_rows, 250)
    found = solve(figures, dataclasses.replace(workload, rows=total), max_rows=max_rows)
    assert found.predicted is not None

    def length(mean: float) -> int:
        return max(2, round(mean * draw.uniform(0.5, 1.5)))

    rows = [(length(workload.prompt_tokens), length(workload.new_tokens)) for _ in range(total)]
    outcome = run_batch(figures, found, rows, max_rows=max_rows)
    assert found.predicted.tokens_per_s == pytest.approx(outcome.tokens_per_s, rel=0.05)
    assert found.predicted.finish_s == pytest.approx(outcome.finish_s, rel=0.09)


def test_a_batch_that_all_fits_at_once_is_finished_when_predicted() -> None:
    figures, workload = ring(EVEN, [0.064] * 4), Workload(64, 64, rows=300)
    found = solve(figures, workload, max_rows=300)
    assert found.predicted is not None
    outcome = run_batch(figures, found, [(64, 64)] * 300, max_rows=300)
    assert found.predicted.finish_s == pytest.approx(outcome.finish_s, rel=0.09)


@pytest.mark.parametrize("microbatches", [4, 12, 24])
def test_plans_set_by_hand_do_as_predicted(microbatches: int) -> None:
    figures, workload = ring(EVEN, [0.128] * 4), Workload(64, 64)
    plan = RingPlan(microbatches, 20, 0.06, (0,) * 4)
    draw = random.Random(microbatches)
    rows = [(draw.randint(32, 96), draw.randint(32, 96)) for _ in range(5 * 20 * microbatches)]
    outcome = run_batch(figures, plan, rows, max_rows=4096)
    assert predict(figures, workload, plan).tokens_per_s == pytest.approx(outcome.tokens_per_s, rel=0.05)
