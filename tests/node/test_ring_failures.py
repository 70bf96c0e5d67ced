"""Rings that cannot begin or go on: each node says why, names the neighbour that it lost, and serves the next epoch."""

from __future__ import annotations

import asyncio
import logging

import numpy
import pytest
from daemon_waits import ENDLESS, rows_of, until

from deserve_network.control_messages import (
    ModelRef,
    Release,
    RowsDone,
    RowsReturned,
    StageFailed,
    StagePlace,
    StageReady,
    Stats,
)
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link_session import LinkTimes
from deserve_network.links import Links
from deserve_node import member


async def test_too_little_memory_fails_the_stage_with_the_reason_and_the_node_lives_on(coordinator, start_node, leased):
    node = await start_node(memory_bytes=200_000)
    session = await coordinator.join()
    await session.tell(*coordinator.ring(session))
    failed = await session.hear(StageFailed)
    assert "layers [0, 8)" in failed.reason
    assert "200000" in failed.reason
    assert failed.suspect == ""
    assert node.daemon.ring_failures == 1
    while (await session.hear(Stats)).ring:
        pass
    assert node.daemon.member is None
    assert not node.task.done()


async def test_an_assignment_that_does_not_fit_is_answered(coordinator, start_node):
    await start_node()
    session = await coordinator.join()
    (assign,) = coordinator.ring(session)
    elsewhere = (StagePlace("somebody", "x", ("/ip4/1.2.3.4/tcp/1/p2p/somebody",), 0, 8),)
    for unfit in (
        type(assign)("r", 1, 7, assign.stages, assign.model, ()),
        type(assign)("r", 1, 0, elsewhere, assign.model, ()),
        type(assign)("r", 1, 0, assign.stages, ModelRef("other", "", "0", "float32"), ()),
    ):
        await session.tell(unfit)
        assert (await session.hear(StageFailed)).reason
    await coordinator.begin(session)


async def test_a_fault_of_ours_while_a_ring_begins_is_told_and_the_next_epoch_is_served(
    coordinator, start_node, leased, monkeypatch, caplog
):
    """A planner that trips over its own arrays is no planner that finds no plan: the operator gets the traceback."""
    await start_node()
    session = await coordinator.join()
    with monkeypatch.context() as broken:
        broken.setattr(member, "ring_figures", lambda *a, **k: numpy.zeros(2) + numpy.zeros(3))
        await coordinator.begin(session)
        failed = await session.hear(StageFailed)
    assert (failed.ring, failed.epoch, failed.stage) == ("r-1", 1, 0)
    assert "could not be broadcast" in failed.reason
    assert "Traceback" in caplog.text
    await session.tell(Release("r-1", 1, failed.reason))
    await coordinator.begin(session, epoch=2)
    await session.tell(leased(range(1)))
    assert rows_of(await session.hear(RowsDone)) == [0]


async def test_two_nodes_form_a_ring_and_a_lost_neighbour_is_named(coordinator, start_node, leased, caplog):
    caplog.set_level(logging.INFO, "deserve_node")
    first, second = await start_node(), await start_node()
    sessions = {session.hello.name: session for session in (await coordinator.join(), await coordinator.join())}
    head, tail = sessions["node-1"], sessions["node-2"]
    await coordinator.begin(head, tail)
    await head.tell(leased(range(3)))
    done = []
    while rows_of(*done) != [0, 1, 2]:
        done.append(await head.hear(RowsDone))
    await head.tell(leased(range(20, 21), fence=3, max_tokens=ENDLESS))
    # As a power cut: nothing of the tail says goodbye.
    await second.daemon.host.close()
    failed = await head.hear(StageFailed)
    assert failed.suspect == tail.channel.peer_id
    (returned,) = [message for message in head.heard if isinstance(message, RowsReturned)]
    assert [(log.row, log.fence) for log in returned.rows] == [(20, 3)]
    await coordinator.begin(head, epoch=2)
    assert first.daemon.member.assign.epoch == 2


async def test_a_stage_that_leaves_in_order_is_nobodys_suspect(coordinator, start_node):
    await start_node()
    await start_node()
    sessions = [await coordinator.join(), await coordinator.join()]
    await coordinator.begin(*sessions)
    await sessions[1].tell(Release("r-1", 1, "over"))
    await sessions[1].tell(*coordinator.ring(sessions[1], ring="r-2"))
    await sessions[1].hear(StageReady)
    await sessions[0].tell(*coordinator.ring(sessions[0], ring="r-3"))
    await sessions[0].hear(StageReady)
    assert [message for message in sessions[0].heard if isinstance(message, StageFailed)] == []


async def test_a_half_prepared_ring_closes_what_it_opened(coordinator, start_node):
    """Stage 0 has its link to stage 1 when the tail fails it; stage 1 then sees the link closed in order."""
    nodes = [await start_node(), await start_node(), await start_node(memory_bytes=1_000)]
    by_name = {session.hello.name: session for session in [await coordinator.join() for _ in nodes]}
    sessions = [by_name[f"node-{n}"] for n in (1, 2, 3)]
    for session, assign in zip(sessions, coordinator.ring(*sessions, layers=6), strict=True):
        await session.tell(assign)
    failed = await sessions[2].hear(StageFailed)
    assert "1000" in failed.reason
    for session in sessions:
        await session.tell(Release("r-1", 1, "the tail failed"))
        await session.tell(*coordinator.ring(session, ring=f"solo-{session.hello.name}", layers=1))
    for session in sessions[:2]:
        await session.hear(StageReady)
    await until(lambda: not any("r-1/" in link.name for node in nodes for link in node.daemon._links._links))


async def test_a_stranger_cannot_take_a_neighbours_place(coordinator, start_node):
    node = await start_node()
    session = await coordinator.join()
    async with (
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as expected,
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as stranger,
    ):
        place = StagePlace(expected.peer_id, "expected", expected.addresses, 0, 4)
        ours = StagePlace(node.daemon.host.peer_id, "node-1", node.daemon.host.addresses, 4, 8)
        (assign,) = coordinator.ring(session)
        await session.tell(type(assign)("r-9", 1, 1, (place, ours), assign.model, ()))
        times = LinkTimes(connect_s=5)
        strangers, expecteds = Links(stranger, times=times), Links(expected, times=times)
        with pytest.raises(Exception, match="somebody else's"):
            await strangers.dial(node.daemon.host.addresses, "r-9/1/0")
        for name in ("r-9/1/0", "r-9/1/tokens"):
            await expecteds.dial(node.daemon.host.addresses, name)
        assert (await session.hear(StageReady)).ring == "r-9"
        await asyncio.gather(strangers.close(), expecteds.close())


async def test_a_neighbour_that_never_links_up_is_named_with_a_reason(coordinator, start_node):
    await start_node()
    session = await coordinator.join()
    async with await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as gone:
        place = StagePlace(gone.peer_id, "gone", gone.addresses, 4, 8)
    (assign,) = coordinator.ring(session)
    ours = StagePlace(session.channel.peer_id, "node-1", session.hello.addresses, 0, 4)
    await session.tell(type(assign)("r-9", 1, 0, (ours, place), assign.model, ()))
    failed = await session.hear(StageFailed)
    assert failed.suspect == place.peer_id
    assert "no link with gone" in failed.reason
