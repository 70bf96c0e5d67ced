"""The outbox: nothing finished is lost, whatever happens to the channel."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from deserve_network.control_messages import (
    CONTROL,
    LeaseRequest,
    RowLog,
    RowResult,
    RowsDone,
    RowsReturned,
    RowsStored,
)
from deserve_network.errors import ChannelClosed
from deserve_network.ring_messages import SampledToken, TokenLogprob
from deserve_node.outbox import MESSAGE_BYTES, Outbox, returned_in_parts


def result(row, body=b"{}"):
    return RowResult(row, 1, 1, body, 200, 3, 2)


class Wire:
    """Takes messages until it breaks."""

    def __init__(self, works_for=10**9):
        self.sent = []
        self._works_for = works_for

    async def send(self, message):
        if len(self.sent) >= self._works_for:
            raise ChannelClosed("broken")
        self.sent.append(message)


async def deliver(outbox, wire):
    """Run `deliver` until it has nothing to do or the wire breaks."""
    task = asyncio.create_task(outbox.deliver(wire.send))
    for _ in range(100):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome


@pytest.fixture
def outbox():
    return Outbox("r", 2, itertools.count())


async def test_results_are_sent_in_order_and_kept(outbox):
    outbox.rows_done([result(1)])
    outbox.rows_done([result(2), result(3)])
    wire = Wire()
    await deliver(outbox, wire)
    assert wire.sent == [RowsDone("r", 2, 0, (result(1),)), RowsDone("r", 2, 1, (result(2), result(3)))]
    assert outbox.unstored == tuple(wire.sent)


async def test_what_a_broken_channel_did_not_take_is_sent_on_the_next(outbox):
    for row in range(3):
        outbox.rows_done([result(row)])
    broken = Wire(works_for=1)
    assert isinstance(await deliver(outbox, broken), ChannelClosed)
    outbox.rows_done([result(3)])
    wire = Wire()
    await deliver(outbox, wire)
    assert [report.report for report in wire.sent] == [0, 1, 2, 3]


async def test_what_is_stored_is_neither_kept_nor_sent_again(outbox):
    for row in range(3):
        outbox.rows_done([result(row)])
    await deliver(outbox, Wire())
    outbox.stored(RowsStored("r", 1))
    outbox.stored(RowsStored("r", 99))
    wire = Wire()
    await deliver(outbox, wire)
    assert [report.report for report in wire.sent] == [0, 2]


async def test_a_result_stored_while_another_is_sent_is_passed_over(outbox):
    for row in range(2):
        outbox.rows_done([result(row)])
    sent = []

    async def send(message):
        sent.append(message.report)
        outbox.stored(RowsStored("r", 1))

    task = asyncio.create_task(outbox.deliver(send))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sent == [0]


async def test_rows_are_asked_for_once_and_again_when_more_are_wanted(outbox):
    outbox.want_rows(5, ())
    wire = Wire()
    task = asyncio.create_task(outbox.deliver(wire.send))
    for _ in range(20):
        await asyncio.sleep(0)
    outbox.want_rows(7, ())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert wire.sent == [LeaseRequest("r", 2, 5), LeaseRequest("r", 2, 7)]


async def test_a_wish_that_comes_while_one_is_sent_is_not_lost(outbox):
    outbox.want_rows(5, ())
    sent = []

    async def send(message):
        sent.append(message.rows)
        if len(sent) == 1:
            outbox.want_rows(9, ())

    task = asyncio.create_task(outbox.deliver(send))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sent == [5, 9]


async def test_reports_stay_below_the_limits_of_a_message(outbox):
    outbox.rows_done([result(row, b"x" * (6 << 20)) for row in range(5)])
    outbox.rows_done([result(row) for row in range(5000)])
    reports = outbox.unstored
    assert [len(report.results) for report in reports] == [2, 2, 1, 4096, 904]
    assert len({report.report for report in reports}) == 5
    for report in reports:
        assert len(CONTROL.encode(report)) < 2 * MESSAGE_BYTES


async def test_a_response_too_large_for_any_message_becomes_that_rows_error(outbox):
    outbox.rows_done([result(1, b"x" * ((16 << 20) + 1)), result(2)])
    large, small = (r for report in outbox.unstored for r in report.results)
    assert (large.row, large.status) == (1, 400)
    assert json.loads(large.body)["error"]["code"] == "response_too_large"
    assert small == result(2)
    assert CONTROL.decode(CONTROL.encode(outbox.unstored[0]))


def test_returned_rows_are_split_by_size(monkeypatch):
    monkeypatch.setattr("deserve_node.outbox.MESSAGE_BYTES", 100_000)
    top = tuple(TokenLogprob(2**31, -1.0) for _ in range(20))
    token = SampledToken(1, 2**20, 2**31, -1.0, top)
    logs = [RowLog(row, 1, 1, (token,) * 100) for row in range(4)] + [RowLog(9, 1, 1, ())]
    parts = returned_in_parts("r", 2, logs)
    assert [log.row for part in parts for log in part.rows] == [0, 1, 2, 3, 9]
    assert len(parts) > 1
    for part in parts:
        assert len(CONTROL.encode(part)) <= 100_000
    assert returned_in_parts("r", 2, []) == []


async def test_recalled_rows_follow_results_and_wait_for_a_channel(outbox):
    outbox.rows_done([result(1)])
    outbox.give_back([RowLog(2, 1, 1, ())])
    await deliver(outbox, Wire(works_for=1))
    back = RowsReturned("r", 2, (RowLog(2, 1, 1, ()),), recalled=True)
    assert outbox.unsent_returns == (back,)
    wire = Wire()
    await deliver(outbox, wire)
    assert [type(message) for message in wire.sent] == [RowsDone, RowsReturned]
    assert wire.sent[1] == back
    assert outbox.unsent_returns == ()
