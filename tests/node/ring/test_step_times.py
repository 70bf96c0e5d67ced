"""How long steps take and when tokens come back, with the real scheduler on a simulated ring: stages take a step's time
by their cost, one step after the other, and hops take their latency. Nothing waits for real."""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from deserve_network.ring_messages import SampledToken
from deserve_node.engine.pages import PoolShape
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.plan import RingPlan
from deserve_plan.solve import solve

STAGES, HOP_S = 4, 0.064
COST = StageCost(0.0663, 0.000278, pair_s=1e-8)
"""DeServe's published step times of Llama-3-70B on eight L4, and some attention."""


@dataclass(frozen=True)
class Came:
    """A step that came back: when, what it took on a stage, and how many rows decoded in it."""

    at_s: float
    step_s: float
    decodes: int
    steady: bool


def figures(stages: int = STAGES) -> RingFigures:
    stage = StageFigures(COST, StageMemory(16, 40_000), occupies_cores=False)
    return RingFigures((stage,) * stages, (LinkFigures(HOP_S),) * stages, 2048, 2)


def run(
    scheduler: Scheduler, rows: Iterable[tuple[Row, int]], stages: int = STAGES, until_s: float = 1e9
) -> list[Came]:
    """All rows, each with the number of tokens that it generates, from the first step to the last."""
    ends = {}
    for row, new in rows:
        ends[row.key] = new
        scheduler.add(row)
    free_at = [0.0] * stages
    under_way: list[tuple[float, int, StepPlan]] = []
    came: list[Came] = []
    now = 0.0
    while now < until_s:
        # The head composes a step when stage 0 is free for it.
        while free_at[0] <= now and (plan := scheduler.next_step()) is not None:
            step_s = COST.step_s(plan.load)
            at = now
            for stage in range(stages):
                at = free_at[stage] = max(at, free_at[stage]) + step_s
                at += HOP_S
            heapq.heappush(under_way, (at, plan.step, plan))
        if not under_way:
            return came
        if now < free_at[0] < under_way[0][0]:
            now = free_at[0]
            continue
        now, _, plan = heapq.heappop(under_way)
        drawn = [SampledToken(c.sequence, c.start + c.count, 1) for c in plan.chunks if c.wanted]
        decodes = len(plan.token_ids) - plan.prompt_tokens
        came.append(Came(now, COST.step_s(plan.load), decodes, scheduler.steady))
        for row, _ in scheduler.complete(plan.step, plan.microbatch, drawn):
            if len(row.generated) == ends[row.key]:
                scheduler.finish(row)
    return came


def ring(plan: RingPlan, *, max_rows: int, chunks_in_flight: int = 0, whole_prompts: bool = False) -> Scheduler:
    return Scheduler(
        KvBudget([[PoolShape(0, 0, 40_000)]] * STAGES),
        plan,
        [COST] * STAGES,
        plan_for=lambda *_: plan,
        max_rows=max_rows,
        max_tokens=16_384,
        latency_s=STAGES * HOP_S,
        chunks_in_flight=chunks_in_flight,
        whole_prompts=whole_prompts,
    )


def mixed_rows(count: int) -> list[tuple[Row, int]]:
    """Prompts of 16 tokens, and every eighth of 64 to 2,048; they end at different times from the first on."""
    draw = random.Random(0)
    rows = []
    for key in range(count):
        prompt = draw.randint(64, 2048) if key % 8 == 0 else 16
        rows.append((Row(key, (5,) * prompt, most_new=64), draw.randint(8, 120)))
    return rows


def spread(came: list[Came]) -> float:
    steps = [step.step_s for step in came if step.steady]
    assert len(steps) > 400
    return statistics.pstdev(steps) / statistics.fmean(steps)


def test_steps_take_equally_long_while_prompts_of_64_to_2048_tokens_ride_along() -> None:
    plan = solve(figures(), Workload(prompt_tokens=146, new_tokens=64), max_rows=512)
    chunked = spread(run(ring(plan, max_rows=512), mixed_rows(4000)))
    whole = spread(run(ring(plan, max_rows=512, whole_prompts=True), mixed_rows(4000)))
    assert chunked <= 0.15
    assert whole > 2 * chunked


def test_a_long_prompt_passes_two_and_a_half_times_faster_than_with_a_chunk_a_round_trip() -> None:
    plan = solve(figures(), Workload(prompt_tokens=256, new_tokens=64), max_rows=512)
    took = [
        run(ring(plan, max_rows=512, chunks_in_flight=limit), [(Row(0, (5,) * 8192, most_new=1), 1)])[-1].at_s
        for limit in (0, 1)
    ]
    assert took[1] / took[0] >= 2.5


def test_a_full_ring_generates_what_its_plan_predicts() -> None:
    workload = Workload(prompt_tokens=64, new_tokens=64)
    plan = solve(figures(), workload, max_rows=512)
    draw = random.Random(1)
    rows = [(Row(key, (5,) * 64, most_new=96), draw.randint(32, 96)) for key in range(4000)]
    came = [step for step in run(ring(plan, max_rows=512), rows) if step.steady]
    seconds = came[-1].at_s - came[0].at_s
    assert plan.predicted is not None
    rate = sum(step.decodes for step in came) / seconds
    assert 0.93 <= rate / plan.predicted.tokens_per_s <= 1.05


def test_rows_are_served_in_turn() -> None:
    plan = solve(figures(), Workload(prompt_tokens=64, new_tokens=64), max_rows=64)
    scheduler = ring(plan, max_rows=64)
    rows = [(Row(key, (5,) * 64, most_new=200), 200) for key in range(64)]
    run(scheduler, rows, until_s=60.0)
    counts = [len(row.generated) for row, _ in rows]
    assert min(counts) > 40
    assert max(counts) - min(counts) <= 0.2 * max(counts)
