"""Predictions against a simulation that shares no formula with them, and against DeServe's published setting."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_simulation import SimulatedRing, period_s

from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan
from deserve_plan.predict import predict
from deserve_plan.solve import solve

AMPLE = StageMemory(page_tokens=16, device_pages=10**7)


def stage(fixed_s: float, token_s: float, **others: object) -> StageFigures:
    return dataclasses.replace(StageFigures(StageCost(fixed_s, token_s), AMPLE), **others)


def plan(stages: int, microbatches: int, rows: int, **others: object) -> RingPlan:
    return dataclasses.replace(RingPlan(microbatches, rows, 0.0, (0,) * stages), **others)


def ring_of(stages: list[StageFigures], links: list[LinkFigures]) -> RingFigures:
    return RingFigures(tuple(stages), tuple(links), hidden=1000, value_bytes=4)


@st.composite
def rings(draw: st.DrawFn) -> RingFigures:
    count = draw(st.integers(2, 8))
    stages = [stage(draw(st.floats(0.001, 0.1)), draw(st.floats(0, 0.002))) for _ in range(count)]
    links = [
        LinkFigures(draw(st.sampled_from([0.0, 0.01, 0.1, 0.3])), 0.0, draw(st.sampled_from([0.0, 1e6, 1e7])))
        for _ in range(count)
    ]
    return ring_of(stages, links)


def simulated(figures: RingFigures, microbatches: int, rows: float, workload: Workload, **others: float) -> float:
    """Tokens/s of the simulation for steps that all carry the mean load."""
    tokens = rows * (workload.prompt_tokens + workload.new_tokens - 1) / workload.new_tokens
    decodes = rows * (workload.new_tokens - 1) / workload.new_tokens
    frame = 200 + 16 * (decodes + 1)
    payloads = [tokens * figures.hidden * figures.value_bytes] * (len(figures.stages) - 1) + [0.0]
    ring = SimulatedRing(
        tuple(s.cost.fixed_s + s.cost.token_s * tokens for s in figures.stages),
        tuple(
            (frame + payload) / link.bytes_per_s if link.bytes_per_s else 0.0
            for link, payload in zip(figures.links, payloads, strict=True)
        ),
        tuple(link.latency_s + link.latency_spread_s / 2 for link in figures.links),
        **others,
    )
    return microbatches * rows / period_s(ring, microbatches)


@settings(deadline=None, max_examples=60)
@given(
    rings(),
    st.integers(1, 40),
    st.integers(1, 100),
    st.sampled_from([Workload(1, 64), Workload(256, 256), Workload(500, 20)]),
)
def test_a_prediction_is_what_the_simulation_measures(
    figures: RingFigures, microbatches: int, rows: int, workload: Workload
) -> None:
    predicted = predict(figures, workload, plan(len(figures.stages), microbatches, rows))
    assert predicted.tokens_per_s == pytest.approx(simulated(figures, microbatches, rows, workload), rel=0.02)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(rings(), st.integers(20, 300))
def test_no_plan_beats_the_one_that_is_found(figures: RingFigures, max_rows: int) -> None:
    workload = Workload(64, 64)
    found = solve(figures, workload, max_rows=max_rows)
    sizes = [(n, max_rows // n) for n in range(1, max_rows + 1)]
    best = max(simulated(figures, n, rows, workload) for n, rows in sizes if n < 60 and rows)
    running = found.microbatches * found.rows_per_microbatch
    mine = simulated(figures, found.microbatches, min(max_rows, running) / found.microbatches, workload)
    assert mine >= 0.96 * best


def test_jitter_costs_nothing_where_a_microbatch_is_spare() -> None:
    stages = [stage(0.05, 0.0005)] * 4
    figures = ring_of(stages, [LinkFigures(0.08, 0.04)] * 4)
    found = solve(figures, Workload(64, 64), max_rows=2000)
    assert found.predicted is not None
    measured = simulated(figures, found.microbatches, found.rows_per_microbatch, Workload(64, 64), jitter_s=0.02)
    assert measured == pytest.approx(found.predicted.tokens_per_s, rel=0.01)
    assert min(found.predicted.utilisation) > 0.99


@pytest.mark.parametrize(
    ("figures", "rows", "bound"),
    [
        (ring_of([stage(0.01, 0.001), stage(0.03, 0.001)], [LinkFigures()] * 2), 500, "compute of stage 1"),
        (
            ring_of([stage(0.01, 0)] * 2, [LinkFigures(0.0, 0.0, 1e5), LinkFigures()]),
            500,
            "uplink of stage 0",
        ),
        (ring_of([stage(0.05, 0.001)] * 2, [LinkFigures(0.5)] * 2), 8, "rows in flight"),
        (
            ring_of([stage(0.01, 0, machine="m", cores=2, threads=2)] * 3, [LinkFigures()] * 3),
            500,
            "cores of stages 0, 1, 2",
        ),
        (
            ring_of(
                [stage(0.01, 0), stage(0.01, 0, memory=StageMemory(16, 100))],
                [LinkFigures(0.5)] * 2,
            ),
            500,
            "KV memory of stage 1",
        ),
    ],
)
def test_what_limits_a_ring_is_named(figures: RingFigures, rows: int, bound: str) -> None:
    found = solve(figures, Workload(64, 64), max_rows=rows)
    assert found.predicted is not None
    assert found.predicted.bound == bound


def test_stages_that_share_cores_are_as_fast_as_the_cores() -> None:
    shared = [stage(0.01, 0.0, machine="m", cores=2, threads=1)] * 4
    figures = ring_of(shared, [LinkFigures()] * 4)
    assert predict(figures, Workload(1, 64), plan(4, 8, 1)).period_s == pytest.approx(8 * 4 * 0.01 / 2)


@pytest.mark.parametrize(("mbit", "codec"), [(1, "int8"), (1000, "raw")])
def test_the_codec_that_pays_is_proposed(mbit: int, codec: str) -> None:
    links = [LinkFigures(0.02, 0.0, mbit * 125e3)] * 4
    figures = RingFigures((stage(0.02, 0.0005),) * 4, tuple(links), hidden=576, value_bytes=4)
    found = solve(figures, Workload(64, 64), max_rows=512, codecs=("raw", "bf16", "int8"))
    assert found.codec == codec


def test_rows_that_share_a_granule_are_put_into_one_microbatch() -> None:
    granular = StageFigures(StageCost(0.0, 0.001, granularity=16), AMPLE)
    figures = ring_of([granular] * 2, [LinkFigures()] * 2)
    found = solve(figures, Workload(1, 1000), max_rows=64)
    assert found.rows_per_microbatch % 16 == 0


def test_a_ring_of_one_needs_one_microbatch() -> None:
    found = solve(ring_of([stage(0.01, 0.001)], []), Workload(64, 64), max_rows=256)
    assert found.microbatches == 1
    assert found.rows_per_microbatch == 256


def test_memory_without_room_for_a_mean_row_runs_one_at_a_time() -> None:
    tiny = stage(0.01, 0.001, memory=StageMemory(16, 2))
    found = solve(ring_of([tiny] * 2, [LinkFigures()] * 2), Workload(64, 64), max_rows=256)
    assert (found.microbatches, found.rows_per_microbatch) == (1, 1)


@pytest.mark.parametrize(
    ("change", "named"), [({"swap_pages": (0,)}, "swap_pages"), ({"microbatches": 0}, "microbatches")]
)
def test_a_plan_for_another_ring_is_refused(change: dict[str, object], named: str) -> None:
    figures = ring_of([stage(0.01, 0)] * 2, [LinkFigures()] * 2)
    with pytest.raises(ValueError, match=named):
        predict(figures, Workload(64, 64), dataclasses.replace(plan(2, 2, 2), **change))
