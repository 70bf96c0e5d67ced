"""Whether cutting a stage's steps into parts shortens them, measured on the loaded stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from deserve_network.ring_messages import Chunk
from deserve_node.engine import Engine
from deserve_node.step_cost import PROBE_SEQUENCE, rows_that_fit, time_step

__all__ = ["choose_parts"]

PARTS = (2, 4)
ROWS, CONTEXT, PROMPT = 64, 128, 128
"""A typical step: decodes with so much context, and a chunk of a prompt."""
ROUNDS = 5
LEAST_ROUNDS = 3
BUDGET_S = 1.0
LEAST_GAIN = 0.03
"""Below this a difference may be a neighbour's noise."""


def choose_parts(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> int:
    """1, or the number of parts that takes a typical step the least time, by more than `LEAST_GAIN`.

    The numbers take turns, and both their best and their median times must say so. A stage too slow to be timed so
    often within `BUDGET_S` computes its steps whole. Leaves `engine.parts` at 1.
    """
    start = min(CONTEXT, engine.shard.context_length - PROMPT)
    rows = min(ROWS, rows_that_fit(engine, max(start, PROMPT), 1) - 1)
    if start < 0 or rows < 2:
        return 1
    chunks = [Chunk(PROBE_SEQUENCE - row, start, 1, int(engine.shard.is_tail)) for row in range(rows)]
    chunks.append(Chunk(PROBE_SEQUENCE - rows, 0, PROMPT, 0))
    times: dict[int, list[float]] = {parts: [] for parts in (1, *PARTS)}
    started, rounds = clock(), 0
    while rounds <= ROUNDS and (clock() - started) * (rounds + 1) <= BUDGET_S * max(1, rounds):
        for parts, own in times.items():
            engine.parts = parts
            own.append(time_step(engine, chunks, clock))
        rounds += 1
    engine.parts = 1
    if rounds <= LEAST_ROUNDS:
        return 1
    measured = {parts: (min(own[1:]), statistics.median(own[1:])) for parts, own in times.items()}
    best = min(measured, key=lambda parts: measured[parts][0])
    limits = [(1 - LEAST_GAIN) * whole for whole in measured[1]]
    return best if all(taken < limit for taken, limit in zip(measured[best], limits, strict=True)) else 1
