"""What a step costs a loaded stage, measured on the stage itself: a few loads, timed again and again, and fitted.

The loads differ in what a cost has coefficients for: rows, chunks of prompts, logits, and how far back rows look. They
take turns, and of each the best time counts: neighbours on the same machine compute in bursts and only ever make a time
longer. Nothing stays behind but numbers in free pages.
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
LEAST_TIMES = 2
"""A load's first time warms caches up and does not count where there is a second one."""
ROWS = (16, 64, 256, 1)
SHORT, LONG = 32, 1024
"""Tokens that rows look back on."""
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
    """The stage's cost, from steps that take about `budget_s` together; a slow stage is timed on fewer, lighter loads.

    Only loads that the KV pages and the model's context have room for are run.
    """
    probes = list(_probes(engine))
    best: dict[StepLoad, float] = {}
    started = clock()
    rounds = 0
    while rounds < LEAST_TIMES or clock() - started < budget_s:
        for number, probe in enumerate(probes):
            late = clock() - started >= budget_s
            # Two loads, each timed, are the least that tells a step's fixed part from its tokens'.
            if late and (number >= 2 or rounds >= LEAST_TIMES):
                break
            seconds = time_step(engine, probe.chunks, clock)
            best[probe.load] = min(seconds, best.get(probe.load, seconds)) if rounds > 1 else seconds
        rounds += 1
    return fit_cost(best.items(), ROW_MULTIPLE)


def _probes(engine: Engine) -> Iterator[_Probe]:
    """Loads from light to heavy, as far as they fit."""
    shard = engine.shard
    decodes = [(rows, SHORT, wanted) for rows in ROWS[:2] for wanted in ((0, 1) if shard.is_tail else (0,))]
    decodes += [(64, LONG, 0), (256, SHORT, int(shard.is_tail)), (1, LONG, 0)]
    seen: set[tuple[Chunk, ...]] = set()
    for rows, context, wanted in decodes:
        start = min(context, shard.context_length) - 1
        fitting = min(rows, rows_that_fit(engine, start, 1))
        yield from _new(tuple(Chunk(PROBE_SEQUENCE - row, start, 1, wanted) for row in range(fitting)), seen)
    for count, start in CHUNKS:
        begin = max(0, min(start, shard.context_length - count))
        length = min(count, shard.context_length - begin)
        if rows_that_fit(engine, begin, length):
            yield from _new((Chunk(PROBE_SEQUENCE, begin, length, 0),), seen)


def _new(chunks: tuple[Chunk, ...], seen: set[tuple[Chunk, ...]]) -> Iterator[_Probe]:
    if chunks and chunks not in seen:
        seen.add(chunks)
        yield _Probe(chunks)


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
