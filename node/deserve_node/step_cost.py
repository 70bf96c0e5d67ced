"""What a step costs a loaded stage, measured on the stage itself: a few loads, timed again and again, and fitted.

The loads differ in what a cost has coefficients for: rows, chunks of prompts, logits, and how far back rows look. The
first time of each warms caches up and touches fresh memory, and does not count. Then they take turns, and of each the
best time counts: neighbours on the same machine compute in bursts and only ever make a time longer. Nothing stays
behind but numbers in free pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.engine import Engine
from deserve_node.engine.pages import live_pages
from deserve_node.shard.shard import ROW_MULTIPLE
from deserve_plan.cost import StageCost, StepLoad
from deserve_plan.fit import fit_cost

__all__ = ["PROBE_SEQUENCE", "measure_cost", "rows_that_fit", "time_step"]

BUDGET_S = 2.0
SETTLED, SETTLED_ROUNDS = 0.02, 5
"""Best times that did not get shorter by such a part in so many rounds in a row are the stage's own."""
LEAST_LOADS = 2
"""Two are the least that tells a step's fixed part from its tokens'."""
ROWS = (16, 64, 256)
SHORT, LONG = 32, 1024
"""Tokens that rows look back on."""
LONG_BYTES = 64 << 20
"""Of KV that rows with a long context read: fresh pages take far longer to come by than to read."""
CHUNKS = ((64, 0), (256, 0), (256, 1024))
"""Tokens of a prompt's chunk, and its start."""
PROBE_SEQUENCE = -1


@dataclass(frozen=True, slots=True)
class _Probe:
    chunks: tuple[Chunk, ...]

    @property
    def load(self) -> StepLoad:
        return sum((StepLoad.of_chunk(c.start, c.count, c.wanted) for c in self.chunks), StepLoad())


def measure_cost(
    engine: Engine, *, budget_s: float = BUDGET_S, clock: Callable[[], float] = time.perf_counter
) -> StageCost:
    """The stage's cost, from steps that take about `budget_s` together, or less where their times settle sooner; a slow
    stage is timed on fewer, lighter loads.

    Only loads that the KV pages and the model's context have room for are run.
    """
    best: dict[_Probe, float] = {}
    started = clock()
    for probe in _probes(engine):
        if len(best) >= LEAST_LOADS and clock() - started >= budget_s:
            break
        time_step(engine, probe.chunks, clock)
        best[probe] = time_step(engine, probe.chunks, clock)
    settled = 0
    while settled < SETTLED_ROUNDS and clock() - started < budget_s:
        settled += 1
        for probe, before in best.items():
            if clock() - started >= budget_s:
                break
            best[probe] = min(before, time_step(engine, probe.chunks, clock))
            if best[probe] < before * (1 - SETTLED):
                settled = 0
    return fit_cost(((probe.load, seconds) for probe, seconds in best.items()), ROW_MULTIPLE)


def _probes(engine: Engine) -> Iterator[_Probe]:
    """Loads from light to heavy, as far as they fit."""
    tail = int(engine.shard.is_tail)
    long_rows = max(1, LONG_BYTES // (engine.cache.page_bytes * LONG // engine.cache.page_tokens or 1))
    few, more, many = ROWS
    probes = (
        _decodes(engine, few, SHORT, 0),
        _decodes(engine, more, SHORT, tail),
        _chunk(engine, *CHUNKS[0]),
        _decodes(engine, min(few, long_rows), LONG, 0),
        _chunk(engine, *CHUNKS[1]),
        _decodes(engine, many, SHORT, tail),
        _decodes(engine, few, SHORT, tail),
        _decodes(engine, 1, SHORT, 0),
        _chunk(engine, *CHUNKS[2]),
    )
    # Small memory and short contexts make some alike.
    yield from dict.fromkeys(_Probe(chunks) for chunks in probes if chunks)


def _decodes(engine: Engine, rows: int, context: int, wanted: int) -> tuple[Chunk, ...]:
    """`rows` rows, or as many as fit, that look back on `context` tokens."""
    start = min(context, engine.shard.context_length) - 1
    fitting = min(rows, rows_that_fit(engine, start, 1))
    return tuple(Chunk(PROBE_SEQUENCE - row, start, 1, wanted) for row in range(fitting))


def _chunk(engine: Engine, count: int, start: int) -> tuple[Chunk, ...]:
    """`count` tokens of one prompt from `start` on; none where they do not fit."""
    begin = max(0, min(start, engine.shard.context_length - count))
    length = min(count, engine.shard.context_length - begin)
    return (Chunk(PROBE_SEQUENCE, begin, length, 0),) if rows_that_fit(engine, begin, length) else ()


def rows_that_fit(engine: Engine, start: int, count: int) -> int:
    """Rows whose step over [start, start + count) the emptiest pool holds. A new row gets pages from 0 on."""
    cache = engine.cache
    pages = len(live_pages(0, start + count, 0, 0, cache.page_tokens))
    return min((shape.pages // pages for shape in cache.shapes), default=1 << 12)


def time_step(engine: Engine, chunks: Sequence[Chunk], clock: Callable[[], float]) -> float:
    """Seconds of one step of `chunks`, whose sequences are new and are released again."""
    shard, tokens = engine.shard, sum(chunk.count for chunk in chunks)
    if shard.is_head:
        inputs = torch.zeros(tokens, dtype=torch.int64)
    else:
        inputs = torch.zeros(tokens, shard.hidden_size, dtype=shard.dtype)
    if shard.is_tail:
        for chunk in chunks:
            engine.admit(Admit("", 0, chunk.sequence, Sampling(), (0,)))
    started = clock()
    try:
        engine.run(chunks, inputs)
        if shard.device.type == "cuda":
            torch.cuda.synchronize(shard.device)
        return clock() - started
    finally:
        engine.release(chunk.sequence for chunk in chunks)
