"""Measuring a stage's cost: against a stage whose clock is the test's, and on a real one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import pytest
import torch

from deserve_models import resolve
from deserve_network.ring_messages import Admit, Chunk
from deserve_node.engine import Engine, KvCache, PoolShape
from deserve_node.shard.loading import load_shard
from deserve_node.step_cost import measure_cost
from deserve_plan.cost import StageCost, StepLoad

TRUE = StageCost(0.004, 0.0001, 0.00002, 2e-8, 1e-8, granularity=16)


class ClockedEngine:
    """Takes what `TRUE` says on its own clock, now and then three times as long, and the first time ten times."""

    def __init__(self, *, pages: int = 8192, context: int = 4096, is_tail: bool = True, slowness: float = 1.0) -> None:
        self.shard = SimpleNamespace(
            is_head=False,
            is_tail=is_tail,
            hidden_size=8,
            dtype=torch.float32,
            device=torch.device("cpu"),
            context_length=context,
        )
        self.cache = SimpleNamespace(shapes=(PoolShape(0, 0, pages),), page_tokens=16, page_bytes=1 << 14)
        self.now_s = 0.0
        self.slowness = slowness
        self.admitted: set[int] = set()
        self.most_pages = 0
        self.furthest = 0
        self.loads: list[StepLoad] = []

    def clock(self) -> float:
        return self.now_s

    def admit(self, admit: Admit) -> None:
        self.admitted.add(admit.sequence)

    def release(self, sequences: Iterable[int]) -> None:
        self.admitted -= set(sequences)

    def run(self, chunks: Sequence[Chunk], inputs: torch.Tensor) -> None:
        load = sum((StepLoad.of_chunk(c.start, c.count, c.wanted) for c in chunks), StepLoad())
        assert inputs.shape == (load.tokens, 8)
        assert not self.shard.is_tail or {c.sequence for c in chunks} == self.admitted
        times = 10 if load not in self.loads else 3 if len(self.loads) % 7 == 0 else 1
        self.loads.append(load)
        self.now_s += TRUE.step_s(load) * self.slowness * times
        self.most_pages = max(self.most_pages, sum(-(-(c.start + c.count) // 16) for c in chunks))
        self.furthest = max(self.furthest, *(c.start + c.count for c in chunks))


def test_the_cost_of_a_stage_is_found_through_noise() -> None:
    engine = ClockedEngine()
    found = measure_cost(engine, clock=engine.clock)
    assert found.granularity == 16
    for load in (StepLoad(48, 48, 48 * 300), StepLoad(200, 20, 20 * 500, 180 * 90), StepLoad(16, 1, 2000)):
        assert found.step_s(load) == pytest.approx(TRUE.step_s(load), rel=0.05)
    assert engine.admitted == set()


def test_a_stage_behind_the_head_and_before_the_tail_has_no_logits() -> None:
    engine = ClockedEngine(is_tail=False)
    assert measure_cost(engine, clock=engine.clock).wanted_s == 0.0


def test_small_memory_and_short_contexts_are_kept_to() -> None:
    engine = ClockedEngine(pages=20, context=128)
    found = measure_cost(engine, clock=engine.clock)
    assert engine.most_pages <= 20
    assert engine.furthest <= 128
    assert found.step_s(StepLoad(16, 16, 512)) == pytest.approx(TRUE.step_s(StepLoad(16, 16, 512)), rel=0.05)


@pytest.mark.parametrize("slowness", [1.0, 100.0])
def test_measuring_takes_about_its_budget(slowness: float) -> None:
    engine = ClockedEngine(slowness=slowness)
    measure_cost(engine, budget_s=2.0, clock=engine.clock)
    heaviest = max(TRUE.step_s(load) * slowness * 10 for load in engine.loads)
    assert engine.now_s <= 2.0 + 4 * heaviest


def test_a_real_stage_is_as_empty_afterwards_as_before() -> None:
    shard = load_shard(resolve("demo"), 0, 2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=torch.device("cpu"))
    found = measure_cost(Engine(shard, cache), budget_s=0.1)
    assert cache.pages_used == 0
    assert 0 < found.step_s(StepLoad(16, 0, 16 * 32)) < 10
