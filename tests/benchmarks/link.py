"""What a frame costs on each carrier of a link: processor time, latency and throughput, between two hosts on loopback.

    python tests/benchmarks/link.py [--seconds 5]

Frames of 16 and 128 KiB leave a hundred times a second, as in a ring; then 64 frames of 1 MiB as fast as they go. Both
ends run in one process, so that a frame's processor time is that of sending and receiving it, acknowledgements and
heartbeats included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from deserve_network.control_messages import LinkShape
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.links import Links
from deserve_network.ring_messages import Chunk, Segment, Step

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
FRAMES_PER_S = 100
FRAME_BYTES = (16 << 10, 128 << 10)
"""64 decode tokens of hidden size 64 and 512 in fp32."""
BULK_FRAMES, BULK_BYTES = 64, 1 << 20

Send = Callable[[bytes], Awaitable[object]]
Receive = Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class Way:
    """One way for payloads to get from one end to the other; `receive` takes the size of what comes."""

    send: Send
    receive: Receive


def step(number: int) -> Step:
    chunks = tuple(Chunk(sequence, 100, 1, 1) for sequence in range(64))
    return Step("ring", 1, number, 0, (), chunks, (Segment("raw", 64),), "float32", 64, 512, ())


@contextlib.asynccontextmanager
async def tcp() -> AsyncIterator[Way]:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    accepted = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *both: accepted.set_result(both), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, back = await accepted

    async def send(payload: bytes) -> None:
        writer.write(payload)
        await writer.drain()

    yield Way(send, reader.readexactly)
    writer.close()
    back.close()
    server.close()


@contextlib.asynccontextmanager
async def link(carrier: str, latency_ms: float) -> AsyncIterator[Way]:
    tensor_port = 0 if carrier == "tls" else None
    async with (
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=tensor_port) as here,
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=tensor_port) as there,
    ):
        shape = LinkShape(latency_ms=latency_ms)
        dialling, accepting = Links(here), Links(there)
        near, far = await asyncio.gather(
            dialling.dial(there.addresses, "bench", shape), accepting.accept("bench", here.peer_id, shape)
        )
        assert near.carrier == carrier
        await asyncio.sleep(1.5)  # the first second has more heartbeats
        yield Way(lambda payload: near.send(step(0), [payload]), lambda _: far.receive())
        await asyncio.gather(dialling.close(), accepting.close())


async def paced(way: Way, nbytes: int, seconds: float) -> tuple[float, float]:
    """Median milliseconds from the start of sending to the end of receiving, and processor milliseconds a frame."""
    payload = bytes(nbytes)
    times: list[float] = []
    begun_s, spent_s = time.perf_counter(), time.process_time()
    frames = int(seconds * FRAMES_PER_S)
    for number in range(frames):
        await asyncio.sleep(begun_s + number / FRAMES_PER_S - time.perf_counter())
        sent_s = time.perf_counter()
        await asyncio.gather(way.send(payload), way.receive(nbytes))
        times.append(time.perf_counter() - sent_s)
    return statistics.median(times) * 1e3, (time.process_time() - spent_s) / frames * 1e3


async def bulk(way: Way) -> float:
    """MB/s."""
    payload = bytes(BULK_BYTES)

    async def send() -> None:
        for _ in range(BULK_FRAMES):
            await way.send(payload)

    async def receive() -> None:
        for _ in range(BULK_FRAMES):
            await way.receive(BULK_BYTES)

    begun_s = time.perf_counter()
    await asyncio.gather(send(), receive())
    return BULK_FRAMES * BULK_BYTES / (time.perf_counter() - begun_s) / 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size of frame")
    seconds = parser.parse_args().seconds
    print(f"{'':16} {'16 KiB: ms':>11} {'CPU ms':>7} {'128 KiB: ms':>12} {'CPU ms':>7} {'MB/s':>6}")
    ways = {
        "asyncio TCP": tcp(),
        "libp2p": link("libp2p", 0),
        "tls": link("tls", 0),
        "tls, 50 ms": link("tls", 50),
    }
    for name, opening in ways.items():
        async with opening as way:
            figures = [figure for nbytes in FRAME_BYTES for figure in await paced(way, nbytes, seconds)]
            print(f"{name:16} {figures[0]:11.2f} {figures[1]:7.2f} {figures[2]:12.2f} {figures[3]:7.2f} ", end="")
            print(f"{await bulk(way):6.0f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
