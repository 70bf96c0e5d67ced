"""The seven traps of py-libp2p 0.8, each as what our side promises in its place."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from deserve_network.channel import Channel
from deserve_network.control_messages import CONTROL, CONTROL_PROTOCOL, Hello
from deserve_network.errors import AddressError, ChannelClosed, DialError, LinkLost
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link import Link
from deserve_network.link_session import LinkTimes
from deserve_network.link_state import Window
from deserve_network.links import Links
from deserve_network.ring_messages import Chunk, Segment, Step
from deserve_network.stream import Stream

LinkUp = Callable[..., Awaitable[tuple[Link, Link]]]
EchoProcess = tuple[asyncio.subprocess.Process, str]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
HELLO = Hello(version=1, name="n", addresses=(), memory_bytes=1, device="cpu")


def step(number: int) -> Step:
    return Step("ring", 1, number, 0, (), (Chunk(0, 0, 1, 1),), (Segment("raw", 1),), "float32", 1, 2, ())


async def accept_one(host: Host, protocol: str) -> asyncio.Future[Stream]:
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()

    async def accept(stream: Stream) -> None:
        if not accepted.done():
            accepted.set_result(stream)

    host.handle(protocol, accept)
    return accepted


async def test_trap_1_a_cancelled_write_leaves_stream_and_connection_whole(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    accepted = await accept_one(there, "/test/bulk/1")
    stream = await here.open_stream(there.addresses, "/test/bulk/1")
    data = bytes(i % 251 for i in range(12 << 20))  # more than the read-ahead takes: the write cannot finish
    writing = asyncio.create_task(stream.write([data]))
    far = await accepted
    await far.read_exactly(1000)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await asyncio.gather(stream.write([b"next"]), _expect(far, data[1000:] + b"next"))
    other = await accept_one(there, "/test/other/1")
    second = await here.open_stream(there.addresses, "/test/other/1")
    await second.write([b"fine"])
    await _expect(await other, b"fine")


async def _fill(link: Link) -> None:
    """Send until every buffer between here and there is full, and then for as long as the link lives."""
    while True:
        await link.send(step(2), [bytes(1 << 20)])


async def _expect(stream: Stream, data: bytes) -> None:
    assert await stream.read_exactly(len(data)) == data


async def test_trap_2_a_consumer_that_stalls_past_five_seconds_keeps_its_stream(link_up: LinkUp) -> None:
    near, far = await link_up(window=Window(nbytes=24 << 20, frames=256))

    async def produce() -> None:
        for number in range(48):
            await near.send(step(number), [bytes(1 << 20)])

    producing = asyncio.create_task(produce())
    await asyncio.sleep(6)  # time is the subject: yamux gives up after five seconds without progress
    assert not producing.done()
    for number in range(48):
        assert (await far.receive()).message.step == number
    await producing
    assert near.streams == far.streams == 1


async def test_trap_3_writers_on_one_stream_never_interleave(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    accepted = await accept_one(there, "/test/many/1")
    stream = await here.open_stream(there.addresses, "/test/many/1")

    async def write(writer: int) -> None:
        for _ in range(5):
            await stream.write([bytes([writer]) * 100, bytes([writer]) * 99_900])

    async def read() -> list[int]:
        order = []
        far = await accepted
        for _ in range(40):
            block = await far.read_exactly(100_000)
            assert block == block[:1] * 100_000
            order.append(block[0])
        return order

    *_, order = await asyncio.gather(*(write(writer) for writer in range(8)), read())
    assert sorted(order) == sorted(list(range(8)) * 5)


async def test_trap_4_a_read_survives_any_number_of_pieces(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    accepted = await accept_one(there, "/test/drip/1")
    stream = await here.open_stream(there.addresses, "/test/drip/1")

    async def drip() -> None:
        for number in range(400):
            await stream.write([bytes([number % 256])])

    async def read() -> bytes:
        return await (await accepted).read_exactly(400)

    _, data = await asyncio.gather(drip(), read())
    assert data == bytes(number % 256 for number in range(400))


async def test_trap_5_quic_is_neither_listened_on_nor_dialled(hosts: tuple[Host, Host]) -> None:
    with pytest.raises(AddressError, match="quic-v1"):
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/udp/0/quic-v1"])
    here, there = hosts
    with pytest.raises((AddressError, DialError), match="quic-v1"):
        await here.open_stream(f"/ip4/127.0.0.1/udp/1/quic-v1/p2p/{there.peer_id}", "/test/x/1")


@pytest.mark.soak
async def test_trap_5_an_idle_link_outlives_thirty_seconds(link_up: LinkUp) -> None:
    near, far = await link_up()
    await asyncio.sleep(35)
    await near.send(step(1))
    assert (await far.receive()).message.step == 1
    assert near.streams == 1


async def test_trap_6_a_peer_that_comes_back_is_reached_without_ceremony(hosts: tuple[Host, Host]) -> None:
    here, _ = hosts
    identity = generate_identity()
    there = await Host.start(identity, [LOOPBACK])
    (address,) = there.addresses
    for life in range(3):
        accepted = await accept_one(there, "/test/life/1")
        stream = await here.open_stream(address, "/test/life/1")
        await stream.write([bytes([life])])
        assert await (await accepted).read_exactly(1) == bytes([life])
        await there.close()
        there = await Host.start(identity, [address.partition("/p2p/")[0]])
    await there.close()


async def test_trap_7_a_stopped_peer_is_noticed_by_a_channel(
    hosts: tuple[Host, Host], echo_process: EchoProcess
) -> None:
    process, address = echo_process
    channel = Channel(await hosts[0].open_stream(address, CONTROL_PROTOCOL), CONTROL, silence_s=5)
    await channel.send(HELLO)
    assert await channel.receive() == HELLO
    process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(ChannelClosed, match="silent for 5 s"):
        await channel.receive()
    assert time.monotonic() - begun < 8
    await channel.close()


async def test_trap_7_a_stopped_peer_costs_the_link_and_a_continued_one_is_reached_again(
    hosts: tuple[Host, Host], echo_process: EchoProcess
) -> None:
    process, address = echo_process
    times = LinkTimes(connect_s=20, reconnect_s=1, heartbeat_s=0.2, silence_s=1, flush_s=0.1)
    links = Links(hosts[0], times=times)
    want = await hosts[0].open_stream(address, "/test/want-link/1")
    await want.write([b"x"])
    link = await links.dial([address], "echo")
    await link.send(step(1), [b"payload"])
    assert (await link.receive()).payload == b"payload"
    process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(LinkLost, match=link.peer_id):
        await _fill(link)
    assert time.monotonic() - begun < 10
    process.send_signal(signal.SIGCONT)
    channel = Channel(await hosts[0].open_stream(address, CONTROL_PROTOCOL), CONTROL)
    await channel.send(HELLO)
    assert await channel.receive() == HELLO
    await channel.close()
    await links.close()
