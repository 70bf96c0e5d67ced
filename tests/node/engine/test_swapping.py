"""Swapping changes no token: the real engine and real copying threads under random schedules, against rows computed
alone and unswapped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from deserve_models import resolve
from deserve_network.ring_messages import Admit, Chunk, Sampling, Tune
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.cache import KvMemoryError
from deserve_node.engine.ledger import Ledger
from deserve_node.engine.mover import ArenaMover
from deserve_node.engine.pages import PoolShape, live_pages
from deserve_node.engine.swap import Swapper
from deserve_node.ring.compute import Compute, Computed, StepWork
from deserve_node.shard.loading import load_shard
from deserve_node.shard.shard import Shard

CPU = torch.device("cpu")
VOCABULARY = 120
ROWS, NEW = 10, 14


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def shard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """A tiny random model; every second layer of Gemma 2 looks back 24 tokens only."""
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "initializer_range": 0.4 if request.param == "llama" else 0.1,
    }
    gemma = Gemma2Config(**sizes, head_dim=8, sliding_window=24)
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if request.param == "llama" else Gemma2ForCausalLM(gemma)
    directory: Path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    return load_shard(resolve(str(directory)), 0, 4, dtype=torch.float32, device=CPU)


def prompts() -> list[tuple[int, ...]]:
    draw = random.Random(5)
    return [tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 60))) for _ in range(ROWS)]


def sampling_of(row: int) -> Sampling:
    """Drawn rather than greedy: a random model's likeliest token soon repeats, and would hide what went wrong."""
    return Sampling(temperature=1.0, seed=row)


@pytest.fixture(scope="module")
def expected(shard: Shard) -> list[list[int]]:
    """Tokens of each row alone."""
    engine = Engine(shard, KvCache(shard.kv_layers, kv_bytes=1 << 20, dtype=torch.float32, device=CPU))
    tokens = []
    for sequence, prompt in enumerate(prompts()):
        engine.admit(Admit("r", 0, sequence, sampling_of(sequence), prompt))
        own: list[int] = []
        ids = list(prompt)
        while len(own) < NEW:
            chunk = Chunk(sequence, len(prompt) + len(own) - len(ids), len(ids), 1)
            own.append(engine.run([chunk], torch.tensor(ids)).drawn[0].token)
            ids = own[-1:]
        engine.release([sequence])
        tokens.append(own)
    return tokens


@dataclass
class Row:
    prompt: tuple[int, ...]
    new: int
    sampling: Sampling
    sequence: int = -1
    computed: int = 0
    tokens: list[int] = field(default_factory=list)

    @property
    def known(self) -> tuple[int, ...]:
        return (*self.prompt, *self.tokens)


class Driver:
    """Microbatches in turn, each with at most one step under way; rows end, and lose their pages, at random."""

    def __init__(self, compute: Compute, shapes: tuple[PoolShape, ...], microbatches: int, draw: random.Random) -> None:
        self.compute = compute
        self.shapes = shapes
        self.draw = draw
        self.rows = [Row(prompt, draw.randint(1, NEW), sampling_of(number)) for number, prompt in enumerate(prompts())]
        self.members: list[list[Row]] = [self.rows[m::microbatches] for m in range(microbatches)]
        self.under_way: list[tuple[list[Row], asyncio.Future[Computed]] | None] = [None] * microbatches
        self.released: list[int] = []
        self.sequences = 0
        self.held: dict[int, list[int]] = {}
        self.swap_s = 0.0

    async def run(self) -> None:
        while any(self.members):
            for m in range(len(self.members)):
                await self._take(m)
                self._submit(m)
            holders = [row for members in self.members for row in members if row.sequence >= 0]
            if holders and not any(self.under_way):
                # They are in each other's way: the last one gives up, as the head has it.
                self._vacate(holders[-1])

    async def _take(self, m: int) -> None:
        if self.under_way[m] is None:
            return
        drew, future = self.under_way[m]
        computed = await future
        self.swap_s += computed.timing.swap_s
        by_sequence = {token.sequence: token.token for token in computed.output.drawn}
        self.under_way[m] = None
        for row in drew:
            row.tokens.append(by_sequence[row.sequence])
            if len(row.tokens) == row.new:
                self._vacate(row)
                self.members[m].remove(row)
        for row in self.members[m]:
            if row.sequence >= 0 and self.draw.random() < 0.03:
                self._vacate(row)

    def _vacate(self, row: Row) -> None:
        self.released.append(row.sequence)
        self.held.pop(row.sequence, None)
        row.sequence, row.computed = -1, 0

    def _submit(self, m: int) -> None:
        chunks: list[Chunk] = []
        ids: list[int] = []
        drew: list[Row] = []
        on_device = [0] * len(self.shapes)
        for row in self.members[m]:
            left = len(row.known) - row.computed
            count = min(left, self.draw.choice([1, 3, 8, 40]))
            if not self._fits(row, count, on_device):
                continue
            if row.sequence < 0:
                row.sequence, self.sequences = self.sequences, self.sequences + 1
                self.compute.engine.admit(Admit("r", 0, row.sequence, row.sampling, row.prompt, tuple(row.tokens)))
            self.held[row.sequence] = self._pages(row, count)
            on_device = [a + b for a, b in zip(on_device, self._pages(row, count), strict=True)]
            chunks.append(Chunk(row.sequence, row.computed, count, int(count == left)))
            ids += row.known[row.computed : row.computed + count]
            row.computed += count
            if count == left:
                drew.append(row)
        if chunks:
            work = StepWork(m, self.released, chunks, torch.tensor(ids))
            self.released = []
            self.under_way[m] = (drew, self.compute.submit(work))

    def _pages(self, row: Row, count: int) -> list[int]:
        return [len(live_pages(row.computed, count, s.window, s.chunk, s.page_tokens)) for s in self.shapes]

    def _fits(self, row: Row, count: int, on_device: list[int]) -> bool:
        for pool, (shape, need) in enumerate(zip(self.shapes, self._pages(row, count), strict=True)):
            others = sum(pages[pool] for sequence, pages in self.held.items() if sequence != row.sequence)
            if on_device[pool] + need > shape.pages or others + need > shape.capacity:
                return False
        return True


def cache_of(shard: Shard, page_tokens: int, device_rows: float, host_rows: float) -> KvCache:
    """Room for about so many rows of 84 tokens, and for the longest chunk of one row at least."""

    def sized(kv_bytes: int, host_bytes: int) -> KvCache:
        return KvCache(
            shard.kv_layers,
            kv_bytes=kv_bytes,
            host_bytes=host_bytes,
            dtype=torch.float32,
            device=CPU,
            page_tokens=page_tokens,
        )

    row_bytes = sized(1 << 20, 0).page_bytes * -(-84 // page_tokens)
    for scale in itertools.count(1):
        with contextlib.suppress(KvMemoryError):
            cache = sized(int(scale * device_rows * row_bytes), int(scale * host_rows * row_bytes))
            if all(len(live_pages(44, 40, s.window, s.chunk, page_tokens)) <= s.pages for s in cache.shapes):
                return cache
    raise AssertionError


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    page_tokens=st.sampled_from([1, 4, 16, 24]),
    microbatches=st.integers(1, 5),
    device_rows=st.floats(1.2, 6),
    host_rows=st.floats(8, 16),
    swap=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    depth=st.integers(1, 3),
    rate=st.sampled_from([0.0, 2e7]),
    seed=st.integers(0, 1 << 32),
)
async def test_swapping_changes_no_token(
    shard: Shard,
    expected: list[list[int]],
    page_tokens: int,
    microbatches: int,
    device_rows: float,
    host_rows: float,
    swap: float,
    depth: int,
    rate: float,
    seed: int,
) -> None:
    cache = cache_of(shard, page_tokens, device_rows, host_rows)
    mover = ArenaMover(cache, in_bytes_per_s=rate, out_bytes_per_s=rate)
    compute = Compute(Engine(shard, cache), Swapper(Ledger(cache.shapes), mover))
    compute.tune(Tune("r", 0, microbatches, (int(swap * cache.shapes[0].pages),), depth, 1))
    driver = Driver(compute, cache.shapes, microbatches, random.Random(seed))
    try:
        await driver.run()
    finally:
        compute.close()
    assert [row.tokens for row in driver.rows] == [
        own[: row.new] for row, own in zip(driver.rows, expected, strict=True)
    ]
