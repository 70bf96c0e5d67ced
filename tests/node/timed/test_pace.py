"""A device that is not there is as fast as its profile, whoever feeds it and however late they wake up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.ring.compute import Compute, StepWork
from deserve_node.timed.engine import TimedEngine
from deserve_node.timed.pace import Pace, wait_until
from deserve_node.timed.profile import StageProfile


class Clock:
    """Shows the same time until somebody waits; a sleeper wakes up late by `late_s`."""

    def __init__(self, late_s=0.0):
        self.now_s = 100.0
        self.late_s = late_s
        self.runs = threading.Event()
        self.runs.set()

    def __call__(self):
        return self.now_s

    def wait(self, deadline_s):
        assert self.runs.wait(10)
        self.now_s = max(self.now_s, deadline_s + self.late_s)


def test_steps_that_wait_follow_without_a_gap_although_each_is_noticed_late():
    clock = Clock(late_s=0.003)
    pace = Pace(clock, clock.wait)
    for _ in range(100):
        pace.hold(100.0, 0.02)
    assert clock.now_s == pytest.approx(100.0 + 100 * 0.02 + 0.003)


def test_a_device_without_work_stands_still():
    clock = Clock()
    pace = Pace(clock, clock.wait)
    pace.hold(100.0, 0.02)
    pace.hold(101.0, 0.02)
    assert clock.now_s == pytest.approx(101.02)


async def test_a_step_is_told_to_have_taken_what_the_profile_says():
    clock = Clock(late_s=0.5)
    profile = StageProfile(fixed_ms=20.0, token_ms=1.0, hidden=8)
    engine = TimedEngine(profile, vocab_size=50, context_length=64, is_tail=False)
    compute = Compute(engine, clock=clock, pace=Pace(clock, clock.wait))
    try:
        steps = [StepWork(n, (), (Chunk(n, 0, 4, 0),), torch.zeros(4, 8)) for n in range(3)]
        clock.runs.clear()  # no step may end before the last has been submitted
        submitted = [compute.submit(step) for step in steps]
        clock.runs.set()
        async with asyncio.timeout(10):
            done = await asyncio.gather(*submitted)
    finally:
        compute.close()
    assert [one.timing.compute_s for one in done] == pytest.approx([0.024] * 3)
    assert compute.busy_s == pytest.approx(0.072)
    assert clock.now_s == pytest.approx(100.0 + 3 * 0.024 + 0.5)


def test_waiting_ends_on_time():
    late_s = []
    for _ in range(9):
        deadline_s = time.perf_counter() + 0.003
        wait_until(deadline_s)
        late_s.append(time.perf_counter() - deadline_s)
    assert min(late_s) >= 0.0
    assert min(late_s) < 0.0001
