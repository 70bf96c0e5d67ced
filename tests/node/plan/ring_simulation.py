"""A ring as discrete events: microbatches go round through stages, lines and copies that take given times.

It knows nothing of the planner's formulas. Every stage computes one step at a time, in order of arrival; a line sends
one frame at a time and then delays it; processor time of a machine is a stage that several stages share.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class SimulatedRing:
    """`compute_s`, `send_s`, `latency_s` per stage, for one step."""

    compute_s: tuple[float, ...]
    send_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    jitter_s: float = 0.0


def period_s(ring: SimulatedRing, microbatches: int, *, rounds: int = 40, seed: int = 0) -> float:
    """Mean seconds between two tokens of a row, after as many rounds to settle."""
    draw = random.Random(seed)
    stages = len(ring.compute_s)
    stage_free = [0.0] * stages
    line_free = [0.0] * stages
    arrived = [0.0] * stages
    order = itertools.count()
    # Steps arrive at a stage: (time, tie, microbatch, stage).
    events = [(0.0, next(order), microbatch, 0) for microbatch in range(microbatches)]
    heapq.heapify(events)
    back: list[float] = []
    while len(back) < 2 * rounds * microbatches:
        now, _, microbatch, stage = heapq.heappop(events)
        done = stage_free[stage] = max(now, stage_free[stage]) + ring.compute_s[stage]
        if stages == 1:
            back.append(done)
            heapq.heappush(events, (done, next(order), microbatch, 0))
            continue
        sent = line_free[stage] = max(done, line_free[stage]) + ring.send_s[stage]
        swing = draw.uniform(-ring.jitter_s, ring.jitter_s)
        arrived[stage] = max(arrived[stage], sent, sent + ring.latency_s[stage] + swing)
        if stage == stages - 1:
            back.append(arrived[stage])
        heapq.heappush(events, (arrived[stage], next(order), microbatch, (stage + 1) % stages))
    half = rounds * microbatches
    return (back[-1] - back[half - 1]) / half * microbatches
