from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deserve_network.channel import Channel
from deserve_network.control_messages import CONTROL, CONTROL_PROTOCOL, Cancel, Hello, Refused
from deserve_network.errors import ChannelClosed, SchemaError
from deserve_network.framing import Kind, Preamble
from deserve_network.host import Host
from deserve_network.stream import Stream

HELLO = Hello(version=1, name="n", addresses=(), memory_bytes=1, device="cpu")


@pytest.fixture
async def channels(hosts: tuple[Host, Host]) -> AsyncIterator[tuple[Channel, Channel]]:
    here, there = hosts
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def accept(stream: Stream) -> None:
        accepted.set_result(Channel(stream, CONTROL))

    there.handle(CONTROL_PROTOCOL, accept)
    near = Channel(await here.open_stream(there.addresses, CONTROL_PROTOCOL), CONTROL)
    await near.send(HELLO)
    far = await accepted
    assert await far.receive() == HELLO
    yield near, far
    await near.close()
    await far.close()


async def test_messages_arrive_in_order_in_both_directions(channels: tuple[Channel, Channel]) -> None:
    for sender, receiver in (channels, channels[::-1]):
        sent = [Cancel("ring", (row,)) for row in range(100)]

        async def produce(sender: Channel = sender, sent: list[Cancel] = sent) -> None:
            for message in sent:
                await sender.send(message)

        task = asyncio.create_task(produce())
        assert [await receiver.receive() for _ in sent] == sent
        await task


async def test_what_was_sent_before_closing_is_received_and_then_the_end(channels: tuple[Channel, Channel]) -> None:
    near, far = channels
    await near.send(Refused("name", "taken"))
    await near.close()
    assert await far.receive() == Refused("name", "taken")
    with pytest.raises(ChannelClosed):
        await far.receive()
    with pytest.raises(ChannelClosed):
        await near.send(HELLO)
    with pytest.raises(ChannelClosed):
        await near.receive()


async def test_a_cancelled_receive_loses_nothing(channels: tuple[Channel, Channel]) -> None:
    near, far = channels
    for row in range(50):
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0)
        await near.send(Cancel("ring", (row,)))
        waiting.cancel()
        try:
            message = await waiting
        except asyncio.CancelledError:
            message = await asyncio.wait_for(far.receive(), 5)
        assert message == Cancel("ring", (row,))


async def test_a_message_outside_the_table_never_leaves(channels: tuple[Channel, Channel]) -> None:
    near, far = channels
    with pytest.raises(SchemaError, match="no message of control"):
        await near.send("hello")
    await near.send(HELLO)
    assert await far.receive() == HELLO


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        Preamble(Kind.DATA, 2**31).encode(),
        Preamble(Kind.DATA, 3).encode() + b"\xc1\xc1\xc1",
        Preamble(Kind.OPEN, 0).encode(),
        Preamble(Kind.DATA, 1, 1).encode() + b"ab",
    ],
    ids=["another protocol", "declares 2 GiB", "not msgpack", "a link's handshake", "a payload"],
)
async def test_a_peer_that_sends_garbage_is_dropped(hosts: tuple[Host, Host], garbage: bytes) -> None:
    here, there = hosts
    failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def accept(stream: Stream) -> None:
        channel = Channel(stream, CONTROL)
        try:
            await channel.receive()
        except ChannelClosed as error:
            failure.set_result(error)
        await channel.close()

    there.handle(CONTROL_PROTOCOL, accept)
    stream = await here.open_stream(there.addresses, CONTROL_PROTOCOL)
    await stream.write([garbage])
    assert here.peer_id in str(await asyncio.wait_for(failure, 5))


SMALL = 1 << 10
LARGE = Cancel("ring", tuple(range(1000, 2000)))


async def small_channel(hosts: tuple[Host, Host], silence_s: float) -> tuple[Channel, Channel]:
    here, there = hosts
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def accept(stream: Stream) -> None:
        accepted.set_result(Channel(stream, CONTROL, silence_s=silence_s, until_trusted=SMALL))

    there.handle(CONTROL_PROTOCOL, accept)
    near = Channel(await here.open_stream(there.addresses, CONTROL_PROTOCOL), CONTROL)
    await near.send(HELLO)
    await near.send(LARGE)
    far = await accepted
    assert await far.receive() == HELLO
    return near, far


async def test_a_large_message_waits_until_its_sender_is_trusted(hosts: tuple[Host, Host]) -> None:
    near, far = await small_channel(hosts, silence_s=20)
    waiting = asyncio.create_task(far.receive())
    done, _ = await asyncio.wait([waiting], timeout=0.3)  # time itself is the subject: nothing may come
    assert not done
    far.trust()
    assert await asyncio.wait_for(waiting, 5) == LARGE
    await near.send(LARGE)
    assert await asyncio.wait_for(far.receive(), 5) == LARGE
    await near.close()
    await far.close()


async def test_a_large_message_of_a_peer_that_is_never_trusted_ends_the_channel(hosts: tuple[Host, Host]) -> None:
    near, far = await small_channel(hosts, silence_s=0.4)
    with pytest.raises(ChannelClosed, match="at most 1024 from a peer not yet trusted"):
        await asyncio.wait_for(far.receive(), 5)
    await near.close()
    await far.close()


async def test_an_idle_channel_stays_alive(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def accept(stream: Stream) -> None:
        accepted.set_result(Channel(stream, CONTROL, silence_s=0.4))

    there.handle(CONTROL_PROTOCOL, accept)
    near = Channel(await here.open_stream(there.addresses, CONTROL_PROTOCOL), CONTROL, silence_s=0.4)
    await near.send(HELLO)
    far = await accepted
    await far.receive()
    with pytest.raises(TimeoutError):  # time itself is the subject: four silence deadlines without a message
        await asyncio.wait_for(far.receive(), 1.6)
    await far.send(HELLO)
    assert await near.receive() == HELLO
    await near.close()
    await far.close()
