"""One-way latency and throughput of a link between two hosts on loopback, against a bare asyncio TCP connection.

    python tests/benchmarks/link.py

Prints milliseconds per frame (median), MB/s and the ratios. Both ends run in one process, so the figures are those of
a machine that does both jobs.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from deserve_network.control_messages import LinkShape
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.links import Links
from deserve_network.ring_messages import Chunk, Segment, Step

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
FRAME_BYTES = 128 << 10
"""64 decode tokens of hidden size 512 in fp32."""
BULK_FRAMES, BULK_BYTES = 64, 1 << 20
SINGLE_FRAMES = 30

Send = Callable[[int], Awaitable[object]]
Receive = Callable[[int], Awaitable[object]]


def step(number: int) -> Step:
    chunks = tuple(Chunk(sequence, 100, 1, 1) for sequence in range(64))
    return Step("ring", 1, number, 0, (), chunks, (Segment("raw", 64),), "float32", 64, 512, ())


async def measure(send: Send, receive: Receive) -> tuple[float, float]:
    """Median milliseconds of one frame on an idle line, and MB/s of many."""
    times = []
    for _ in range(SINGLE_FRAMES):
        begun = time.perf_counter()
        await asyncio.gather(send(FRAME_BYTES), receive(FRAME_BYTES))
        times.append(time.perf_counter() - begun)

    async def many(action: Callable[[int], Awaitable[object]]) -> None:
        for _ in range(BULK_FRAMES):
            await action(BULK_BYTES)

    begun = time.perf_counter()
    await asyncio.gather(many(send), many(receive))
    return statistics.median(times) * 1e3, BULK_FRAMES * BULK_BYTES / (time.perf_counter() - begun) / 1e6


async def tcp() -> tuple[float, float]:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    accepted = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *both: accepted.set_result(both), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, back = await accepted

    async def send(nbytes: int) -> None:
        writer.write(bytes(nbytes))
        await writer.drain()

    figures = await measure(send, reader.readexactly)
    writer.close()
    back.close()
    server.close()
    return figures


async def link(latency_ms: float) -> tuple[float, float]:
    async with (
        await Host.start(generate_identity(), [LOOPBACK]) as here,
        await Host.start(generate_identity(), [LOOPBACK]) as there,
    ):
        shape = LinkShape(latency_ms=latency_ms)
        dialling, accepting = Links(here), Links(there)
        near, far = await asyncio.gather(
            dialling.dial(there.addresses, "bench", shape), accepting.accept("bench", here.peer_id, shape)
        )
        figures = await measure(lambda nbytes: near.send(step(0), [bytes(nbytes)]), lambda _: far.receive())
        await asyncio.gather(dialling.close(), accepting.close())
    return figures


async def main() -> None:
    base_ms, base_rate = await tcp()
    print(f"asyncio TCP   {base_ms:7.2f} ms a frame   {base_rate:7.0f} MB/s")
    for latency_ms in (0, 50):
        frame_ms, rate = await link(latency_ms)
        print(
            f"link {latency_ms:3} ms   {frame_ms:7.2f} ms a frame   {rate:7.0f} MB/s"
            f"   ({frame_ms - latency_ms:.2f} ms over the line, {rate / base_rate:.2f}x the TCP rate)"
        )


if __name__ == "__main__":
    asyncio.run(main())
