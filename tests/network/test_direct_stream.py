"""A TLS socket as a stream: whole after a cancelled write, never interleaved, closed without losing what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deserve_network import direct_stream
from deserve_network.direct_sockets import DirectSockets
from deserve_network.direct_stream import DirectStream
from deserve_network.errors import StreamClosed

Pair = tuple[DirectStream, DirectStream]
MORE_THAN_FITS = 32 << 20


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    sockets = DirectSockets.open(["127.0.0.1"])
    with sockets.expect("near") as expected:
        near = await sockets.dial(["127.0.0.1"], expected.offer, "far")
        far = expected.take()
    yield near, far
    await sockets.close()


def pattern(count: int) -> bytes:
    return bytes(range(251)) * (count // 251) + bytes(range(count % 251))


async def test_buffers_of_any_size_arrive_back_to_back(pair: Pair) -> None:
    near, far = pair
    sizes = [0, 1, 36, 8191, 8192, 300_000, 5, 2 << 20]
    data = pattern(sum(sizes))
    ends = [sum(sizes[: count + 1]) for count in range(len(sizes))]
    pieces = [memoryview(data)[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    writing = asyncio.create_task(near.write(pieces))
    assert await far.read_exactly(len(data)) == data
    await writing
    assert far.bytes_received == near.bytes_sent > len(data)  # and what introduced the two


async def test_what_is_read_is_the_readers_own_and_can_be_written_to(pair: Pair) -> None:
    near, far = pair
    await near.write([b"abcdef"])
    first, second = await far.read_exactly(3), await far.read_exactly(3)
    first[:] = b"xyz"
    assert second == b"def"


async def test_a_cancelled_write_leaves_the_stream_whole(pair: Pair) -> None:
    near, far = pair
    data = pattern(MORE_THAN_FITS)
    writing = asyncio.create_task(near.write([data]))
    await far.read_exactly(1000)
    assert not writing.done()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    next_one = asyncio.create_task(near.write([b"next"]))
    assert await far.read_exactly(len(data) - 1000 + 4) == data[1000:] + b"next"
    await next_one


async def test_writers_never_interleave(pair: Pair) -> None:
    near, far = pair
    blocks = [bytes([writer]) * 400_000 for writer in range(20)]
    writing = asyncio.gather(*(near.write([block[:100], block[100:]]) for block in blocks))
    for _ in blocks:
        block = await far.read_exactly(400_000)
        assert block == block[:1] * len(block)
    await writing


async def test_both_directions_at_once(pair: Pair) -> None:
    data = pattern(MORE_THAN_FITS)
    near, far = pair
    _, _, here, there = await asyncio.gather(
        near.write([data]), far.write([data]), near.read_exactly(len(data)), far.read_exactly(len(data))
    )
    assert here == there == data


async def test_closing_delivers_what_was_written_although_unread_bytes_wait_here(pair: Pair) -> None:
    near, far = pair
    await far.write([b"never read"])
    closing = asyncio.gather(near.write([pattern(MORE_THAN_FITS)]), near.close())
    assert await far.read_exactly(MORE_THAN_FITS) == pattern(MORE_THAN_FITS)
    with pytest.raises(StreamClosed, match="peer closed"):
        await far.read_exactly(1)
    await far.close()
    await closing
    with pytest.raises(StreamClosed):
        await near.write([b"x"])


async def test_a_peer_that_reads_nothing_does_not_keep_a_close_waiting(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_stream, "CLOSE_GRACE_S", 0.1)
    near, _ = pair
    writing = asyncio.create_task(near.write([bytes(MORE_THAN_FITS)]))
    await asyncio.sleep(0)
    await asyncio.wait_for(near.close(), 5)
    with pytest.raises(StreamClosed):
        await writing


async def test_a_reset_wakes_whoever_waits_at_either_end(pair: Pair) -> None:
    near, far = pair
    reading = [asyncio.create_task(end.read_exactly(1)) for end in pair]
    writing = asyncio.create_task(far.write([bytes(MORE_THAN_FITS)]))
    await asyncio.sleep(0)
    await near.reset()
    results = await asyncio.wait_for(asyncio.gather(*reading, writing, return_exceptions=True), 5)
    assert [type(result) for result in results] == [StreamClosed] * 3
    await near.reset()


async def test_a_reader_that_is_closed_away_is_told(pair: Pair) -> None:
    near, far = pair
    reading = asyncio.create_task(near.read_exactly(1))
    await asyncio.sleep(0)
    await asyncio.gather(near.close(), far.close())
    with pytest.raises(StreamClosed):
        await reading


@pytest.mark.parametrize("end", [0, 1])
async def test_a_stream_ends_before_its_keys_are_used_up(pair: Pair, monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    monkeypatch.setattr(direct_stream, "KEY_BYTES", 100_000)
    near, far = pair

    async def exchange() -> None:
        for _ in range(3):
            await asyncio.gather(*((near.write([bytes(60_000)]), far.read_exactly(60_000))[:: 1 - 2 * end]))

    with pytest.raises(StreamClosed, match="keys are used up"):
        await exchange()
