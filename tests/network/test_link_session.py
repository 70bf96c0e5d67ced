"""One life of a link on a stream of our own: how often it pings, and what it does with a peer that never reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from deserve_network import link_session
from deserve_network.byte_stream import Buffer
from deserve_network.control_messages import LinkShape
from deserve_network.emulation import Line
from deserve_network.errors import ProtocolError
from deserve_network.framing import Kind, Limits, Preamble
from deserve_network.link_session import FIRST_PINGS, MAX_CONTROL_FRAMES, LinkTimes, Session

TIMES = LinkTimes(heartbeat_s=0.8, silence_s=50.0)


class Owner:
    """Of a link without data."""

    def counters(self) -> tuple[int, int]:
        return 0, 0

    def owes_news(self) -> bool:
        return False

    def news_is_pressing(self) -> bool:
        return False

    def on_counters(self, received: int, consumed: int) -> None: ...

    def on_data(self, sequence: int, header: bytearray, payload: bytearray) -> None: ...

    def on_rtt(self, seconds: float) -> None: ...


class Unread:
    """A stream whose peer sends `frames` frames of one kind and reads nothing."""

    peer_id = carrier = ""
    bytes_received = 0

    def __init__(self, frame: bytes = b"", frames: int = 0) -> None:
        self._frame = frame
        self._left = frames
        self.all_sent = asyncio.Event()

    async def read_exactly(self, count: int) -> bytearray:
        if not self._left:
            self.all_sent.set()
            await asyncio.get_running_loop().create_future()
        self._left -= 1
        self.bytes_received += count
        if not self._left % 100:
            await asyncio.sleep(0)
        return bytearray(self._frame)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


def session_on(stream: Unread) -> Session:
    return Session(stream, Line(LinkShape()), Owner(), Limits(0, 0), TIMES, coalesce=1)


@pytest.mark.parametrize("kind", [Kind.PING, Kind.PROBE])
async def test_a_peer_that_asks_and_never_reads_ends_the_session(kind: Kind) -> None:
    session = session_on(Unread(Preamble(kind, sequence=1).encode(), 2 * MAX_CONTROL_FRAMES))
    with pytest.raises(ProtocolError, match=f"more than {MAX_CONTROL_FRAMES} control frames"):
        await asyncio.wait_for(session.run(), 20)
    assert session.outlet.urgent_frames <= MAX_CONTROL_FRAMES + 1


async def test_a_peer_that_asks_for_as_much_as_may_wait_keeps_its_session() -> None:
    stream = Unread(Preamble(Kind.PING, sequence=1).encode(), MAX_CONTROL_FRAMES)
    running = asyncio.create_task(session_on(stream).run())
    await asyncio.wait_for(stream.all_sent.wait(), 20)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_first_pings_are_close_together_whatever_else_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep, enough = asyncio.sleep, asyncio.Event()

    async def note(seconds: float) -> None:
        if seconds == TIMES.silence_s / 5:
            await enough.wait()
        pauses.append(seconds)
        if len(pauses) > FIRST_PINGS:
            enough.set()
        await sleep(0)

    monkeypatch.setattr(link_session.asyncio, "sleep", note)
    session = session_on(Unread())
    running = asyncio.create_task(session.run())
    for _ in range(9):
        session.probe(0)
    await asyncio.wait_for(enough.wait(), 5)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert pauses[: FIRST_PINGS + 1] == [0.1] * (FIRST_PINGS - 1) + [0.8] * 2
