from __future__ import annotations

import array
import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from deserve_network.control_messages import LinkShape
from deserve_network.errors import LinkLost, LinkRefused, NetworkError, ProtocolError, SchemaError, StreamClosed
from deserve_network.framing import Kind, Preamble
from deserve_network.host import Host
from deserve_network.link import MAX_PAYLOAD_BYTES, Link
from deserve_network.link_messages import LINK, Open, Refused
from deserve_network.link_session import LinkTimes, Session
from deserve_network.link_state import Window
from deserve_network.links import Links
from deserve_network.ring_messages import RING_PROTOCOL, Chunk, Segment, Step

LinkUp = Callable[..., Awaitable[tuple[Link, Link]]]
BRIEF = LinkTimes(connect_s=1, reconnect_s=0.5, heartbeat_s=0.05, silence_s=1)


def step(number: int) -> Step:
    return Step("ring", 1, number, 0, (), (Chunk(0, 0, 1, 1),), (Segment("raw", 1),), "float32", 1, 2, ())


async def send_all(link: Link, count: int, payload: bytes = b"") -> None:
    for number in range(count):
        await link.send(step(number), [payload])


async def receive_all(link: Link, count: int) -> list[int]:
    return [(await link.receive()).message.step for _ in range(count)]


async def test_a_message_and_its_payload_arrive_together(link_up: LinkUp) -> None:
    near, far = await link_up()
    numbers = array.array("f", [1.5, -2.5])
    await near.send(step(7), [memoryview(numbers), b"tail"])
    frame = await far.receive()
    assert frame.message == step(7)
    assert bytes(frame.payload) == numbers.tobytes() + b"tail"
    await far.send(step(8))
    assert (await near.receive()).payload.nbytes == 0


async def test_frames_cross_in_order_in_both_directions_and_are_counted(link_up: LinkUp) -> None:
    near, far = await link_up()
    payload = bytes(100_000)
    _, _, here, there = await asyncio.gather(
        send_all(near, 100, payload), send_all(far, 100, payload), receive_all(near, 100), receive_all(far, 100)
    )
    assert here == there == list(range(100))
    assert near.bytes_sent == far.bytes_received > 100 * len(payload)
    assert near.streams == far.streams == 1


@pytest.mark.parametrize("seed", range(4))
async def test_streams_that_break_at_random_lose_nothing_double_nothing_and_swap_nothing(
    link_up: LinkUp, seed: int
) -> None:
    near, far = await link_up()
    chance = random.Random(seed)
    frames, sizes = 150, [chance.choice([0, 10, 5_000, 200_000]) for _ in range(150)]

    async def produce(link: Link) -> None:
        for number, size in enumerate(sizes):
            await link.send(step(number), [number.to_bytes(4), bytes(size)])
            if chance.random() < 0.05:
                # Whatever is under way in either direction dies with the stream.
                await chance.choice((near, far)).drop_stream()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 100)

    async def consume(link: Link) -> None:
        for number, size in enumerate(sizes):
            frame = await asyncio.wait_for(link.receive(), 20)
            assert frame.message.step == number
            assert int.from_bytes(frame.payload[:4]) == number
            assert frame.payload.nbytes == 4 + size

    await asyncio.gather(produce(near), produce(far), consume(near), consume(far))
    assert near.streams > 1
    assert near.bytes_received == far.bytes_received > frames


async def test_a_link_may_have_a_congestion_control_of_its_own(link_up: LinkUp) -> None:
    usual, _ = await link_up("ring/1/0")
    near, far = await link_up("ring/1/1", shape=LinkShape(congestion="reno"))
    if near.carrier != "tls":
        return  # the connection is that of all links to the peer, and stays as it is
    assert [congestion_of(link) for link in (near, far)] == ["reno", "reno"]
    with socket.socket() as plain:
        assert congestion_of(usual) == congestion(plain)
    with pytest.raises(LinkRefused, match="congestion: 'fast' cannot be used here"):
        await link_up("ring/1/2", shape=LinkShape(congestion="fast"))


def congestion_of(link: Link) -> str:
    assert link._session is not None
    return congestion(link._session.stream._tls)  # type: ignore[attr-defined]


def congestion(tcp: socket.socket) -> str:
    return tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


async def test_a_dropped_connection_is_dialled_anew(link_up: LinkUp, hosts: tuple[Host, Host]) -> None:
    near, far = await link_up()
    for turn in range(3):
        await hosts[turn % 2].disconnect(hosts[1 - turn % 2].peer_id)
        await near.send(step(turn))
        assert (await asyncio.wait_for(far.receive(), 10)).message.step == turn


async def test_a_consumer_that_does_nothing_stops_the_sender_at_the_window(link_up: LinkUp) -> None:
    near, far = await link_up(window=Window(nbytes=1 << 20, frames=8))
    sending = asyncio.create_task(send_all(near, 20, b"x"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(sending), 0.3)
    assert near.state.sent == 8
    assert await receive_all(far, 20) == list(range(20))
    await sending


async def test_a_send_does_not_wait_for_the_acknowledgement_of_the_one_before(link_up: LinkUp) -> None:
    near, far = await link_up(shape=LinkShape(latency_ms=100))
    begun = time.monotonic()
    await asyncio.gather(send_all(near, 50, bytes(1000)), receive_all(far, 50))
    assert time.monotonic() - begun < 50 * 0.1  # one after the other would take at least that


async def test_emulated_latency_delays_frames_and_heartbeats(link_up: LinkUp) -> None:
    near, far = await link_up(shape=LinkShape(latency_ms=80))
    begun = time.monotonic()
    await near.send(step(0))
    await far.receive()
    assert time.monotonic() - begun >= 0.079
    for _ in range(4):  # a heartbeat's answer is under way for as long as these
        await far.send(step(0))
        await near.receive()
    assert near.rtt_s >= 0.158


async def test_emulated_bandwidth_limits_a_direction(link_up: LinkUp) -> None:
    near, far = await link_up(shape=LinkShape(mbit=40))  # 5 MB a second
    begun = time.monotonic()
    await asyncio.gather(send_all(near, 10, bytes(100_000)), receive_all(far, 10))
    assert time.monotonic() - begun >= 0.19


@pytest.mark.parametrize("mbit", [0.5, 2])
async def test_a_measurement_finds_latency_and_bandwidth_of_each_direction(link_up: LinkUp, mbit: float) -> None:
    near, far = await link_up(shape=LinkShape(latency_ms=40, mbit=mbit))
    for measured in await asyncio.gather(near.measure(), far.measure()):
        assert 0.039 < measured.latency_s < 0.2
        assert measured.bytes_per_s == pytest.approx(mbit * 1e6 / 8, rel=0.2)  # 1 % on a quiet machine


async def test_data_passes_while_a_link_is_measured(link_up: LinkUp) -> None:
    near, far = await link_up()
    await asyncio.gather(near.measure(), send_all(near, 50, bytes(10_000)), receive_all(far, 50))
    assert near.bytes_sent == far.bytes_received < 1 << 20  # probes are not counted


async def test_a_measurement_starts_over_on_the_next_stream(link_up: LinkUp) -> None:
    near, _ = await link_up(shape=LinkShape(latency_ms=100))
    measuring = asyncio.create_task(near.measure())
    await asyncio.sleep(0)
    await near.drop_stream()
    assert (await measuring).latency_s > 0.099
    assert near.streams == 2


async def test_a_measurement_of_a_lost_link_says_so(link_up: LinkUp) -> None:
    near, _ = await link_up()
    measuring = asyncio.create_task(near.measure())
    await asyncio.sleep(0)
    await near.close()
    with pytest.raises(LinkLost):
        await measuring


async def test_a_measurement_that_nobody_answers_names_the_link(
    link_up: LinkUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = await link_up(times=BRIEF)
    monkeypatch.setattr(Session, "_answered", lambda *_: None)
    with pytest.raises(LinkLost, match=f"ring/1/0 to {near.peer_id}: no ping was answered within 1 s"):
        await asyncio.wait_for(near.measure(), 5)
    assert near.streams == far.streams == 1


async def test_frames_that_wait_for_company_arrive_in_order_and_soon(link_up: LinkUp) -> None:
    near, far = await link_up()
    near.coalesce = 4
    await send_all(near, 10)
    assert await asyncio.wait_for(receive_all(far, 10), 2) == list(range(10))
    with pytest.raises(ValueError, match="at least 1"):
        near.coalesce = 0


async def test_a_cancelled_send_or_receive_loses_nothing(link_up: LinkUp) -> None:
    near, far = await link_up(window=Window(nbytes=1 << 20, frames=2))
    await send_all(near, 2)
    blocked = asyncio.create_task(near.send(step(99)))
    await asyncio.sleep(0)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert await receive_all(far, 2) == [0, 1]
    waiting = asyncio.create_task(far.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await near.send(step(2))
    assert (await far.receive()).message.step == 2


async def test_closing_delivers_what_was_sent_and_tells_the_other_end(link_up: LinkUp) -> None:
    near, far = await link_up()
    await send_all(near, 30, bytes(10_000))
    await near.close()
    assert await receive_all(far, 30) == list(range(30))
    with pytest.raises(LinkLost, match="peer closed"):
        await far.receive()
    with pytest.raises(LinkLost):
        await near.send(step(0))


async def test_a_peer_that_is_gone_makes_the_link_lost_after_the_deadline(
    link_up: LinkUp, hosts: tuple[Host, Host]
) -> None:
    near, _ = await link_up(times=BRIEF)
    await hosts[1].close()
    begun = time.monotonic()
    with pytest.raises(LinkLost, match=hosts[1].peer_id):
        await near.receive()
    assert time.monotonic() - begun < 5
    with pytest.raises(LinkLost):
        await near.send(step(0))


async def test_an_acceptor_whose_dialer_is_gone_loses_the_link_too(link_up: LinkUp, hosts: tuple[Host, Host]) -> None:
    _, far = await link_up(times=BRIEF)
    await hosts[0].close()
    with pytest.raises(LinkLost, match=hosts[0].peer_id):
        await asyncio.wait_for(far.receive(), 5)


async def test_a_link_waits_for_an_end_that_comes_later(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    dialling, accepting = Links(here), Links(there)
    dial = asyncio.create_task(dialling.dial(there.addresses, "ring/1/0"))
    await asyncio.sleep(0.2)
    far = await accepting.accept("ring/1/0", here.peer_id)
    near = await dial
    await near.send(step(1))
    assert (await far.receive()).message.step == 1
    await asyncio.gather(dialling.close(), accepting.close())


async def test_another_epoch_is_another_link(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    dialling = Links(here, times=BRIEF)
    accepting = Links(there, times=BRIEF, unknown_name_s=0.1)
    accept = asyncio.create_task(accepting.accept("ring/2/0", here.peer_id))
    with pytest.raises(LinkRefused, match="ring/1/0"):
        await dialling.dial(there.addresses, "ring/1/0")
    with pytest.raises(LinkLost):
        await accept
    await asyncio.gather(dialling.close(), accepting.close())


async def test_a_link_meant_for_somebody_else_is_refused_at_once(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    dialling, accepting = Links(here), Links(there)
    accept = asyncio.create_task(accepting.accept("ring/1/0", there.peer_id))
    with pytest.raises(LinkRefused, match="somebody else"):
        await dialling.dial(there.addresses, "ring/1/0")
    accept.cancel()
    await asyncio.gather(accept, dialling.close(), accepting.close(), return_exceptions=True)


async def test_a_peer_that_restarted_is_not_taken_for_the_one_that_was_lost(
    hosts: tuple[Host, Host], link_up: LinkUp
) -> None:
    near, far = await link_up()
    await near.send(step(0))
    await far.receive()
    # The same peer under the same name, but with nothing in memory.
    stream = await hosts[0].open_stream(hosts[1].addresses, RING_PROTOCOL)
    header = LINK.encode(Open("ring/1/0", bytes(16), b"", 0, 0, 1, 1, direct=False))
    await stream.write([Preamble(Kind.OPEN, len(header)).encode(), header])
    preamble = Preamble.decode(await stream.read_exactly(36), far._limits)
    answer = LINK.decode(await stream.read_exactly(preamble.header_bytes))
    assert isinstance(answer, Refused)
    assert "another session" in answer.reason
    with pytest.raises(LinkLost):
        await far.receive()


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n" * 4, Preamble(Kind.PING).encode()])
async def test_a_stranger_without_a_handshake_is_dropped(hosts: tuple[Host, Host], greeting: bytes) -> None:
    here, there = hosts
    links = Links(there)
    stream = await here.open_stream(there.addresses, RING_PROTOCOL)
    await stream.write([greeting])
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(stream.read_exactly(1), 5)
    assert there.handler_failures == 0
    await links.close()


async def test_a_stranger_who_stops_in_the_middle_of_a_handshake_is_dropped(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    links = Links(there, handshake_s=0.1)
    stream = await here.open_stream(there.addresses, RING_PROTOCOL)
    await stream.write([b"DS"])
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(stream.read_exactly(1), 5)
    assert there.handler_failures == 0
    await links.close()


async def test_a_neighbour_that_breaks_the_protocol_ends_the_link(link_up: LinkUp) -> None:
    near, far = await link_up()
    assert near._session is not None
    near._session.outlet.push([Preamble(Kind.DATA, 3, 0, 1).encode(), b"\xc1\xc1\xc1"])
    with pytest.raises(LinkLost, match="not msgpack"):
        await asyncio.wait_for(far.receive(), 5)


async def test_a_neighbour_that_forgot_frames_is_left_at_once(link_up: LinkUp) -> None:
    near, far = await link_up()
    await far.send(step(0))
    await near.receive()
    while far.state.peer_received == 0:
        await asyncio.wait_for(far._news(), 5)
    near.state.received = 0
    await near.drop_stream()
    with pytest.raises(LinkLost, match="forgot frames"):
        await asyncio.wait_for(far.receive(), 5)
    # The stream on which it said so is not left open: the neighbour need not find out by silence.
    async with asyncio.timeout(near.times.silence_s / 2):
        while near.carrier:
            await near._news()


async def test_a_frame_over_a_limit_never_leaves(link_up: LinkUp) -> None:
    near, far = await link_up()
    with pytest.raises(ProtocolError, match=str(MAX_PAYLOAD_BYTES)):
        await near.send(step(0), [memoryview(bytes(MAX_PAYLOAD_BYTES + 1))])
    with pytest.raises(SchemaError):
        await near.send("not a message")
    await near.send(step(1))
    assert (await far.receive()).message.step == 1


async def test_a_name_can_be_accepted_only_once_at_a_time(hosts: tuple[Host, Host], link_up: LinkUp) -> None:
    _, far = await link_up()
    links = Links(hosts[1])
    first = asyncio.create_task(links.accept("a", hosts[0].peer_id))
    await asyncio.sleep(0)
    with pytest.raises(LinkRefused, match="already"):
        await links.accept("a", hosts[0].peer_id)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    again = asyncio.create_task(links.accept("a", hosts[0].peer_id))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
    await asyncio.gather(again, far.close(), return_exceptions=True)


async def test_hundreds_of_megabytes_pass(link_up: LinkUp) -> None:
    near, far = await link_up()
    payload = random.Random(0).randbytes(4 << 20)

    async def consume() -> None:
        for _ in range(16):
            assert (await far.receive()).payload == payload

    await asyncio.gather(send_all(near, 16, payload), consume())


async def test_closing_everything_leaves_no_task(hosts: tuple[Host, Host]) -> None:
    before = asyncio.all_tasks()
    here, there = hosts
    dialling, accepting = Links(here), Links(there)
    await asyncio.gather(dialling.dial(there.addresses, "a"), accepting.accept("a", here.peer_id))
    await asyncio.gather(dialling.close(), accepting.close())
    assert asyncio.all_tasks() == before


def test_every_error_of_the_package_has_one_root() -> None:
    from deserve_network import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), NetworkError)
