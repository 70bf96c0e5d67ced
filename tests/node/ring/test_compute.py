"""Steps of a device on which they are only queued: the next is queued while one computes, and each is done when the
device says so, with the time that it took there."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine import StepOutput
from deserve_node.ring.compute import Compute, StepWork


class Span:
    """Ends when it is told to."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.ended = threading.Event()

    def wait(self):
        assert self.ended.wait(10)
        return self.seconds


class QueuingEngine:
    queues = True

    def __init__(self, spans):
        self.spans = spans
        self.queued = []
        self.all_queued = threading.Event()

    def release(self, sequences):
        """Nothing is held."""

    def run(self, chunks, inputs, tables=None):
        span = self.spans[len(self.queued)]
        self.queued.append(inputs)
        if len(self.queued) == len(self.spans):
            self.all_queued.set()
        if span is None:
            raise ValueError("no such step")
        return StepOutput(hidden=inputs, span=span)


def work_of(number):
    return StepWork(0, (), (Chunk(number, 0, 1, 0),), torch.full((1, 4), float(number)))


@pytest.fixture
def compute_of():
    made = []

    def make(*spans):
        made.append(Compute(QueuingEngine(spans)))
        return made[-1]

    yield make
    for compute in made:
        for span in compute.engine.spans:
            if span is not None:
                span.ended.set()
        compute.close()


async def test_the_next_step_is_queued_while_the_device_computes_and_each_takes_what_the_device_took(compute_of):
    first, second = Span(0.25), Span(0.5)
    compute = compute_of(first, second)
    async with asyncio.timeout(20):
        steps = [compute.submit(work_of(number)) for number in range(2)]
        assert await asyncio.to_thread(compute.engine.all_queued.wait, 10)
        assert not any(step.done() for step in steps)
        assert compute.busy_s == 0
        second.ended.set()
        first.ended.set()
        done = await asyncio.gather(*steps)
    assert [computed.timing.compute_s for computed in done] == [0.25, 0.5]
    assert compute.busy_s == 0.75
    assert [computed.output.hidden for computed in done] == compute.engine.queued


async def test_a_step_that_cannot_be_queued_fails_alone(compute_of):
    compute = compute_of(None, Span(0.5))
    compute.engine.spans[1].ended.set()
    async with asyncio.timeout(20):
        failed, sound = (compute.submit(work_of(number)) for number in range(2))
        with pytest.raises(ValueError, match="no such step"):
            await failed
        assert (await sound).timing.compute_s == 0.5


async def test_closing_waits_for_the_step_on_the_device_and_forgets_those_behind_it(compute_of):
    spans = [Span(0.25), Span(0.5)]
    compute = compute_of(*spans)
    async with asyncio.timeout(20):
        first, second = (compute.submit(work_of(number)) for number in range(2))
        assert await asyncio.to_thread(compute.engine.all_queued.wait, 10)
        closing = asyncio.create_task(asyncio.to_thread(compute.close))
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not closing.done()
        spans[0].ended.set()
        assert (await first).timing.compute_s == 0.25
        await closing
