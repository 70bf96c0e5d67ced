"""The head between its coordinator and its ring: what it asks for, what a cancelled row leaves behind, and which
rows it gives back."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch

from deserve_network.control_messages import Lease, LeasedRow
from deserve_network.ring_messages import Sampled, StageTiming, Step, Tune
from deserve_node.engine import PoolShape, StepOutput
from deserve_node.ring.compute import Computed
from deserve_node.ring.desk import HeadLinks
from deserve_node.ring.head import Head, RingProtocolError
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.planning import Planner
from deserve_node.ring.scheduler import Scheduler
from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory
from deserve_plan.plan import RingPlan
from deserve_text.tokenizer import TextModel

ROWS = 16
WANTED = 20
"""Those and one refill."""
PLAN = RingPlan(1, ROWS, 4096.0, (0,), codec="bf16")


class Desk:
    def __init__(self):
        self.wishes = asyncio.Queue()

    def want_rows(self, rows, codecs):
        self.wishes.put_nowait((rows, codecs))

    def rows_done(self, results):
        raise AssertionError(f"nothing can be done here: {results}")


class Layers:
    """Stage 0 without a model: hidden states of the right shape."""

    def submit(self, work):
        future = asyncio.get_running_loop().create_future()
        future.set_result(Computed(StepOutput(hidden=torch.zeros(len(work.inputs), 4)), StageTiming(0.0)))
        return future

    def tune(self, tune):
        """Nothing is swapped here."""


class Outward:
    """A link that sends one message for each `release` of its gate, and receives `answer` to each step on `onward`."""

    rtt_s = 0.0

    def __init__(self, *, gate=None, answer=None, onward=None):
        self.sent = asyncio.Queue()
        self.gate = gate
        self.answer = answer
        self.onward = onward

    async def send(self, message, payload=()):
        if self.gate is not None:
            await self.gate.acquire()
        self.sent.put_nowait(message)

    async def receive(self):
        if self.answer is None:
            await asyncio.Event().wait()
        while not isinstance(step := await self.onward.sent.get(), Step):
            pass
        return SimpleNamespace(message=self.answer(step.step))


@pytest.fixture
async def ring(tiny_model):
    desk, onward, tail = Desk(), Outward(), Outward(gate=asyncio.Semaphore(0))
    head = Head(
        "r",
        1,
        compute=Layers(),
        scheduler=Scheduler(
            KvBudget([[PoolShape(0, 0, 4096)]]),
            PLAN,
            [StageCost(0.0, 1.0)],
            plan_for=lambda *_: PLAN,
            max_rows=ROWS,
            max_tokens=4096,
        ),
        text=TextModel.load(tiny_model),
        desk=desk,
        links=HeadLinks(onward, tail),
    )
    tasks = []

    def start():
        tasks.append(asyncio.create_task(head.run()))
        return tasks[0]

    async with asyncio.timeout(30):
        yield SimpleNamespace(head=head, desk=desk, onward=onward, tail=tail, start=start)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def lease_of(count, **parameters):
    body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 8, **parameters}).encode()
    return Lease(1, 1, 300.0, tuple(LeasedRow(row, "/v1/completions", body, 0) for row in range(count)))


async def test_rows_that_are_still_being_opened_are_not_asked_for_again(ring):
    ring.start()
    assert await ring.desk.wishes.get() == (WANTED, ("bf16",))
    await ring.head.add(lease_of(WANTED))
    ring.tail.gate.release()
    await ring.tail.sent.get()
    assert ring.desk.wishes.empty()


async def test_rows_cancelled_while_the_ring_is_told_of_them_are_told_all_the_same(ring):
    await ring.head.add(lease_of(3))
    running = ring.start()
    ring.tail.gate.release()
    told = [await ring.tail.sent.get()]
    ring.head.cancel(range(3))
    ring.tail.gate.release()
    ring.tail.gate.release()
    # The plan goes ahead of the first step.
    assert await ring.onward.sent.get() == Tune("r", 1, 1, (0,), 1, 1)
    step = asyncio.create_task(ring.onward.sent.get())
    await asyncio.wait([step, running], return_when=asyncio.FIRST_COMPLETED)
    assert not running.done(), running.exception()
    told += [await ring.tail.sent.get() for _ in range(2)]
    # The tail waits for an Admit of every sequence that a step names, wanted or not.
    assert isinstance(step.result(), Step)
    assert [admit.sequence for admit in told] == [chunk.sequence for chunk in step.result().chunks] == [0, 1, 2]


async def test_rows_that_wait_are_given_back_before_those_that_run_the_youngest_first(ring):
    await ring.head.add(lease_of(ROWS + 2))
    ring.start()
    ring.tail.gate.release()
    await ring.tail.sent.get()  # the first step is planned: ROWS run, two wait
    given = ring.head.give_back(4)
    assert [log.row for log in given] == [ROWS + 1, ROWS, ROWS - 1, ROWS - 2]
    assert {(log.lease, log.fence) for log in given} == {(1, 1)}
    assert sorted(log.row for log in ring.head.unfinished()) == list(range(ROWS - 2))
    assert len(ring.head.give_back(100)) == ROWS - 2
    assert ring.head.give_back(100) == []


async def test_a_prompt_that_is_being_scored_is_not_given_back(ring):
    await ring.head.add(lease_of(2, echo=True, logprobs=1))
    ring.start()
    ring.tail.gate.release()
    await ring.tail.sent.get()
    assert ring.head.give_back(2) == []


def planned_head(planner, tiny_model, onward, tail, desk):
    scheduler = Scheduler(
        KvBudget([[PoolShape(0, 0, 4096)]]),
        planner.plan,
        planner.costs,
        plan_for=planner.plan_for,
        max_rows=ROWS,
        max_tokens=64,
    )
    return Head(
        "r",
        1,
        compute=Layers(),
        scheduler=scheduler,
        text=TextModel.load(tiny_model),
        desk=desk,
        links=HeadLinks(onward, tail),
        planner=planner,
    )


def planner_of(link, hidden=4):
    stage = StageFigures(StageCost(0.0, 0.001), StageMemory(16, 4096))
    return Planner(RingFigures((stage,) * 2, (link,) * 2, hidden, value_bytes=4), max_rows=ROWS, step_tokens=64)


async def test_a_tail_that_keeps_a_stages_time_to_itself_breaks_the_ring(tiny_model):
    onward = Outward()
    alone = (StageTiming(0.1),)
    tail = Outward(answer=lambda step: Sampled("r", 1, step, 0, (), timings=alone), onward=onward)
    head = planned_head(planner_of(LinkFigures()), tiny_model, onward, tail, Desk())
    await head.add(lease_of(1))
    with pytest.RaisesGroup(pytest.RaisesExc(RingProtocolError, match="timings"), flatten_subgroups=True):
        async with asyncio.timeout(30):
            await head.run()


async def test_the_first_rows_are_asked_for_with_the_codecs_that_are_worth_it(tiny_model):
    onward, desk = Outward(), Desk()
    head = planned_head(planner_of(LinkFigures(bytes_per_s=1e5), hidden=512), tiny_model, onward, Outward(), desk)
    running = asyncio.create_task(head.run())
    async with asyncio.timeout(30):
        _, codecs = await desk.wishes.get()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert codecs == ("int8", "bf16")
