"""Plans of rings whose links are measured as slower than they turn out to be once TCP's window has opened."""

from __future__ import annotations

import dataclasses

import pytest

from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan
from deserve_plan.predict import predict
from deserve_plan.solve import LINK_TIE, solve

ROWS = Workload(2, 128)
MAX_ROWS = 2400


def ring(latency_s: float, bytes_per_s: float) -> RingFigures:
    stage = StageFigures(StageCost(0.002, 0.0015), StageMemory(16, 100_000))
    return RingFigures((stage,) * 4, (LinkFigures(latency_s, bytes_per_s=bytes_per_s),) * 4, hidden=512, value_bytes=2)


def tokens_per_s(figures: RingFigures, plan: RingPlan) -> float:
    return predict(figures, ROWS, plan, max_rows=MAX_ROWS).tokens_per_s


@pytest.mark.parametrize("latency_s", [0.064, 0.256, 0.512])
@pytest.mark.parametrize("bytes_per_s", [200e3, 400e3, 600e3])
def test_a_plan_for_slow_links_is_as_good_on_faster_ones(latency_s: float, bytes_per_s: float) -> None:
    measured = ring(latency_s, bytes_per_s)
    plan = solve(measured, ROWS, max_rows=MAX_ROWS)
    assert plan.predicted is not None
    assert plan.predicted.bound.startswith("uplink")
    for carried in (690e3, 2e6, 0.0):
        faster = ring(latency_s, carried)
        best = solve(faster, ROWS, max_rows=MAX_ROWS)
        assert tokens_per_s(faster, plan) >= 0.98 * tokens_per_s(faster, best)


def test_an_unsteady_link_speaks_for_fewer_bytes() -> None:
    steady = ring(0.064, 0.85e6)
    links = tuple(dataclasses.replace(link, bandwidth_spread=0.5) for link in steady.links)
    unsteady = dataclasses.replace(steady, links=links)
    chosen = [solve(of, ROWS, max_rows=MAX_ROWS, codecs=("raw", "int8")).codec for of in (steady, unsteady)]
    assert chosen == ["raw", "int8"]


def test_a_ring_of_one_stage_has_no_link_to_wait_for() -> None:
    alone = dataclasses.replace(ring(0.064, 1e6), stages=ring(0.064, 1e6).stages[:1], links=())
    plan = solve(alone, ROWS, max_rows=64)
    assert plan.predicted is not None
    assert plan.predicted.bound == "compute of stage 0"


def test_what_the_measured_link_carries_is_not_given_up_for_it() -> None:
    measured = ring(0.256, 400e3)
    plan = solve(measured, ROWS, max_rows=MAX_ROWS)
    for microbatches in range(2, 60):
        other = dataclasses.replace(plan, microbatches=microbatches, rows_per_microbatch=MAX_ROWS // microbatches)
        assert tokens_per_s(measured, plan) >= (1 - 2 * LINK_TIE) * tokens_per_s(measured, other)
