"""Links of one stage: who is blamed when one does not stand, and who is not."""

from __future__ import annotations

import asyncio

import pytest

from deserve_network.control_messages import Assign, LinkMeasure, LinkShape, ModelRef, StagePlace
from deserve_network.errors import LinkLost
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link_session import LinkTimes
from deserve_network.links import Links
from deserve_node.ring.neighbours import Neighbours, NoLinkError, first_cause, said_goodbye

MODEL = ModelRef("tiny", "", "", "float32")
TIMES = LinkTimes(connect_s=20, reconnect_s=1, silence_s=2, flush_s=0.2)


@pytest.fixture
async def hosts():
    async with (
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as here,
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as there,
    ):
        yield here, there


def assigns(*hosts, shapes=()):
    places = tuple(StagePlace(host.peer_id, f"node-{n}", host.addresses, n, n + 1) for n, host in enumerate(hosts))
    return [Assign("r", 1, stage, places, MODEL, shapes) for stage in range(len(hosts))]


async def failure_of(neighbours):
    try:
        await neighbours.connect()
    except ExceptionGroup as group:
        return first_cause(group)
    pytest.fail("the links stand")


async def test_head_and_tail_have_two_links_between_them(hosts):
    ends = [Neighbours(assign, Links(host, times=TIMES)) for assign, host in zip(assigns(*hosts), hosts, strict=True)]
    await asyncio.gather(*(end.connect() for end in ends))
    head, tail = ends
    assert (head.next.name, head.token.name, head.previous) == ("r/1/0", "r/1/tokens", None)
    assert (tail.previous.name, tail.token.name, tail.next) == ("r/1/0", "r/1/tokens", None)
    await tail.close()
    with pytest.raises(LinkLost) as left:
        await head.token.receive()
    assert said_goodbye(left.value)
    await head.close()
    await head.close()


async def test_a_stage_measures_its_onward_link_and_the_tail_the_one_to_the_head(hosts):
    shapes = (LinkShape(latency_ms=30, mbit=2), LinkShape(latency_ms=60, mbit=1))
    shaped = assigns(*hosts, shapes=shapes)
    head, tail = (Neighbours(assign, Links(host, times=TIMES)) for assign, host in zip(shaped, hosts, strict=True))
    await asyncio.gather(head.connect(), tail.connect())
    for measured, shape in zip(await asyncio.gather(head.measure(), tail.measure()), shapes, strict=True):
        assert shape.latency_ms < measured.latency_s * 1e3 + 1 < shape.latency_ms + 100
        assert measured.bytes_per_s == pytest.approx(shape.mbit * 1e6 / 8, rel=0.2)
    await asyncio.gather(head.close(), tail.close())


async def test_a_neighbour_that_vanishes_is_the_suspect(hosts):
    ends = [Neighbours(assign, Links(host, times=TIMES)) for assign, host in zip(assigns(*hosts), hosts, strict=True)]
    await asyncio.gather(*(end.connect() for end in ends))
    await hosts[1].close()
    with pytest.raises(LinkLost) as lost:
        await ends[0].token.receive()
    assert not said_goodbye(lost.value)
    assert ends[0].suspect(lost.value) == hosts[1].peer_id
    await asyncio.gather(*(end.close() for end in ends))


async def test_a_neighbour_that_does_not_answer_in_time_is_named(hosts):
    links = Links(hosts[0], times=TIMES)
    neighbours = Neighbours(assigns(*hosts)[0], links, deadline_s=0.2)
    error = await failure_of(neighbours)
    assert isinstance(error, NoLinkError)
    assert str(error) == "no link with node-1 within 0.2 s"
    assert neighbours.suspect(error) == hosts[1].peer_id
    assert not links._links


async def test_addresses_of_another_peer_are_not_dialled(hosts):
    here, there = hosts
    places = (
        StagePlace(here.peer_id, "node-0", here.addresses, 0, 1),
        StagePlace(generate_identity().peer_id, "node-1", there.addresses, 1, 2),
    )
    neighbours = Neighbours(Assign("r", 1, 0, places, MODEL, ()), Links(here, times=TIMES))
    error = await failure_of(neighbours)
    assert "no link with node-1: no address" in str(error)
    assert neighbours.suspect(error) == places[1].peer_id


async def test_a_ring_of_one_has_no_links(hosts):
    neighbours = Neighbours(assigns(hosts[0])[0], Links(hosts[0]))
    await neighbours.connect()
    assert (neighbours.next, neighbours.previous, neighbours.token, neighbours.rtt_s) == (None, None, None, 0.0)
    assert await neighbours.measure() == LinkMeasure(0.0, 0.0, 0.0, 0.0)
    assert neighbours.suspect(ValueError("ours")) == ""
