"""When frames leave: on the line's time whatever the loop does, control frames first, and in company where asked."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence

from deserve_network.byte_stream import Buffer
from deserve_network.control_messages import LinkShape
from deserve_network.emulation import Line
from deserve_network.outlet import COALESCE_BYTES, COALESCE_S, Outlet
from deserve_plan import steady


class Recorded:
    """A stream that notes each write and when it came."""

    peer_id = carrier = ""
    bytes_received = 0

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.times: list[float] = []
        self.written = asyncio.Event()

    async def write(self, buffers: Sequence[Buffer]) -> None:
        self.writes.append([bytes(buffer[:8]) for buffer in buffers])
        self.times += [asyncio.get_running_loop().time()] * len(buffers)
        self.written.set()

    async def read_exactly(self, count: int) -> bytearray:
        raise NotImplementedError

    async def close(self) -> None: ...

    async def reset(self) -> None: ...

    async def frames(self, count: int) -> list[bytes]:
        while len(self.times) < count:
            self.written.clear()
            await asyncio.wait_for(self.written.wait(), 5)
        return [frame for write in self.writes for frame in write]


@contextlib.asynccontextmanager
async def outlet(shape: LinkShape, coalesce: int = 1) -> AsyncIterator[tuple[Outlet, Recorded]]:
    stream = Recorded()
    made = Outlet(stream, Line(shape), coalesce)
    running = asyncio.create_task(made.run())
    try:
        yield made, stream
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_frame_arrives_when_the_line_says() -> None:
    loop = asyncio.get_running_loop()
    async with outlet(LinkShape(latency_ms=20)) as (out, stream):
        due = []
        for _ in range(30):
            due.append(loop.time() + 0.020)
            out.push([b"frame"])
            await asyncio.sleep(0.003)
        await stream.frames(30)
    late = [time - then for time, then in zip(stream.times, due, strict=True)]
    assert min(late) > -0.0005
    assert statistics.median(late) < 0.001  # half a millisecond on a quiet machine


async def test_a_loop_that_stands_still_costs_the_line_no_bandwidth() -> None:
    loop = asyncio.get_running_loop()
    async with outlet(LinkShape(mbit=8)) as (out, stream):  # a million bytes a second
        begun = loop.time()
        for _ in range(10):
            out.push([bytes(10_000)])
        for _ in range(4):
            await asyncio.sleep(0.001)
            time.sleep(0.015)  # noqa: ASYNC251 - the subject
        await stream.frames(10)
    # The tenth comes out at 100 ms; each stall, had it delayed the frame after it, would have added to that.
    assert 0.0995 < stream.times[-1] - begun < 0.112


async def test_control_frames_overtake_data_that_waits_for_the_line() -> None:
    async with outlet(LinkShape(mbit=0.8)) as (out, stream):  # 100 ms a frame
        for number in range(3):
            out.push([bytes([number]) * 10_000])
        await stream.frames(1)
        out.push([b"ping"], urgent=True)
        order = await stream.frames(4)
    assert order.index(b"ping") < 3


async def test_frames_in_company_leave_as_one_write() -> None:
    async with outlet(LinkShape(), coalesce=3) as (out, stream):
        for number in range(6):
            out.push([bytes([number])], alone=False)
            await asyncio.sleep(0)
        await stream.frames(6)
    assert [len(write) for write in stream.writes] == [3, 3]


async def test_a_frame_without_company_leaves_after_a_moment() -> None:
    loop = asyncio.get_running_loop()
    async with outlet(LinkShape(), coalesce=3) as (out, stream):
        begun = loop.time()
        out.push([b"alone"], alone=False)
        await stream.frames(1)
    assert stream.times[0] - begun > COALESCE_S - 0.002


async def test_large_frames_and_those_that_go_alone_take_along_what_waits() -> None:
    for last, alone in ((bytes(COALESCE_BYTES), False), (b"close", True)):
        async with outlet(LinkShape(), coalesce=9) as (out, stream):
            out.push([b"waits"], alone=False)
            out.push([last], alone=alone)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [len(write) for write in stream.writes] == [2]


async def test_asking_for_less_company_releases_what_waits() -> None:
    async with outlet(LinkShape(), coalesce=9) as (out, stream):
        out.push([b"waits"], alone=False)
        out.set_coalesce(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert stream.writes == [[b"waits"]]


def test_a_plan_counts_on_the_wait_for_company_that_there_is() -> None:
    assert steady.COALESCE_S == COALESCE_S
