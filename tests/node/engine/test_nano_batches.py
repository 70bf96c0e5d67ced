"""Steps in parts: how they are cut, that no bit depends on it, and when it is done."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deserve_models import ModelFiles
from deserve_network.ring_messages import Admit, Chunk
from deserve_node.engine import Engine, KvCache, PoolShape
from deserve_node.engine.nano_batches import cut
from deserve_node.nano_parts import choose_parts
from deserve_node.shard.loading import load_shard
from deserve_node.shard.shard import ROW_MULTIPLE

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 90), min_size=1, max_size=80), st.sampled_from([1, 2, 4]))
def test_parts_are_consecutive_and_none_is_too_small(counts: list[int], parts: int) -> None:
    chunks = [Chunk(sequence, 0, count, 0) for sequence, count in enumerate(counts)]
    groups = [chunks[group] for group in cut(chunks, parts)]
    assert [chunk for group in groups for chunk in group] == chunks
    assert 1 <= len(groups) <= parts
    if len(groups) > 1:
        assert min(sum(c.count for c in group) for group in groups) >= ROW_MULTIPLE


def test_equal_rows_make_equal_parts() -> None:
    chunks = [Chunk(sequence, 5, 1, 1) for sequence in range(64)]
    assert [len(chunks[group]) for group in cut(chunks, 4)] == [16, 16, 16, 16]


@pytest.mark.parametrize("layers", [(0, 5), (3, 8)])
@pytest.mark.parametrize("parts", [2, 4])
def test_no_bit_depends_on_how_a_step_is_cut(tiny_files: ModelFiles, layers: tuple[int, int], parts: int) -> None:
    draw = random.Random(1)
    steps = [[Chunk(s, 0, draw.randint(1, 30), 0) for s in range(40)]]
    steps.append([Chunk(c.sequence, c.count, 1, 0) for c in steps[0]])
    shard = load_shard(tiny_files, *layers, dtype=torch.float32, device=CPU)
    found = []
    for count in (1, parts):
        engine = Engine(shard, KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=CPU))
        engine.parts = count
        logits: list[torch.Tensor] = []
        if shard.is_tail:
            engine._sample = lambda chunks, found, logits=logits: logits.append(found)  # type: ignore[assignment]
        for number, chunks in enumerate(steps):
            tokens = sum(c.count for c in chunks)
            wanted = [Chunk(c.sequence, c.start, c.count, c.count if shard.is_tail else 0) for c in chunks]
            generator = torch.Generator().manual_seed(number)
            ids = torch.randint(0, 250, (tokens,), generator=generator)
            inputs = ids if shard.is_head else torch.randn(tokens, 64, generator=generator)
            output = engine.run(wanted, inputs)
            if not shard.is_tail:
                logits.append(output.hidden)
        found.append(logits)
    for whole, cut_up in zip(*found, strict=True):
        assert torch.equal(whole, cut_up)


class ClockedEngine:
    """Takes `times[parts]` seconds a step, the first time twice that, and now and then longer."""

    def __init__(self, times: dict[int, float], noise: float = 0.0) -> None:
        self.shard = SimpleNamespace(
            is_head=True, is_tail=False, hidden_size=8, dtype=torch.float32, device=CPU, context_length=4096
        )
        self.cache = SimpleNamespace(shapes=(PoolShape(0, 0, 8192),), page_tokens=16)
        self.parts = 1
        self.now_s = 0.0
        self.steps = 0
        self._times = times
        self._draw = random.Random(3)
        self._noise = noise

    def clock(self) -> float:
        return self.now_s

    def admit(self, admit: Admit) -> None: ...

    def release(self, sequences: Iterable[int]) -> None: ...

    def run(self, chunks: Sequence[Chunk], inputs: torch.Tensor) -> None:
        self.steps += 1
        self.now_s += self._times[self.parts] * (1 + self._noise * self._draw.random()) * (2 if self.steps <= 3 else 1)


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        ({1: 0.010, 2: 0.009, 4: 0.011}, 2),
        ({1: 0.010, 2: 0.009, 4: 0.008}, 4),
        ({1: 0.010, 2: 0.0098, 4: 0.0099}, 1),
        ({1: 0.010, 2: 0.012, 4: 0.015}, 1),
        ({1: 1.0, 2: 0.5, 4: 0.4}, 1),
    ],
    ids=["two", "four", "too little", "worse", "too slow to tell"],
)
def test_steps_are_cut_only_where_that_clearly_pays(times: dict[int, float], parts: int) -> None:
    engine = ClockedEngine(times)
    assert choose_parts(engine, engine.clock) == parts  # type: ignore[arg-type]
    assert engine.parts == 1


def test_noise_alone_cuts_no_step() -> None:
    engine = ClockedEngine({1: 0.010, 2: 0.010, 4: 0.010}, noise=0.02)
    assert choose_parts(engine, engine.clock) == 1  # type: ignore[arg-type]
