"""One life of a link on one stream: reads frames, answers pings, watches for silence, until the stream breaks.

Decides nothing about delivery (`link_state`) or reconnecting (`link`): it ends with the reason why it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass
from typing import Protocol

from deserve_network.byte_stream import Buffer, ByteStream
from deserve_network.emulation import Line
from deserve_network.errors import ClosedByPeer, NetworkError, ProtocolError, StreamClosed
from deserve_network.framing import PROBE_BYTES, Kind, Limits, Preamble, read_frame
from deserve_network.outlet import Outlet

__all__ = ["LinkTimes", "Owner", "Session"]

FIRST_PINGS = 6
MAX_CONTROL_FRAMES = 4096
"""That wait to leave, about a MB. An honest peer causes two a second, and the largest payload holds them up for nine
minutes on 1 Mbit/s."""
_PROBE = bytes(PROBE_BYTES)


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Deadlines and intervals of a link, seconds."""

    connect_s: float = 60.0
    """From `dial` or `accept` until the link stands; the other end may still be loading its layers."""
    reconnect_s: float = 15.0
    """From the loss of a stream until the link counts as lost."""
    heartbeat_s: float = 1.0
    silence_s: float = 5.0
    """A stream that brings nothing for this long is dead. Longer than any round trip."""
    ack_delay_s: float = 0.2
    """How long news of received and consumed frames may wait for a frame that carries them. A ring's links carry data
    one way only, so nearly every acknowledgement is a frame of its own; news of a quarter of the window leaves at once
    (`LinkState.news_is_pressing`), so what waits costs the sender memory and never a pause."""
    flush_s: float = 2.0
    """How long `close` waits for acknowledgements."""


class Owner(Protocol):
    """What a session asks of its link."""

    def counters(self) -> tuple[int, int]:
        """Received and consumed, for a frame that leaves now."""

    def owes_news(self) -> bool: ...

    def news_is_pressing(self) -> bool: ...

    def on_counters(self, received: int, consumed: int) -> None: ...

    def on_data(self, sequence: int, header: bytearray, payload: bytearray) -> None: ...

    def on_rtt(self, seconds: float) -> None: ...


class Session:
    """`run` returns never; it raises `NetworkError` when the stream is of no more use, or is cancelled."""

    def __init__(
        self, stream: ByteStream, line: Line, owner: Owner, limits: Limits, times: LinkTimes, coalesce: int
    ) -> None:
        self.stream = stream
        self.outlet = Outlet(stream, line, coalesce)
        self._owner = owner
        self._limits = limits
        self._times = times
        self._loop = asyncio.get_running_loop()
        self._pings: dict[int, float] = {}
        self._probes: dict[int, asyncio.Future[float]] = {}
        self._ping = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._over = False

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.outlet.run())
                group.create_task(self._read())
                group.create_task(self._beat())
                group.create_task(self._watch())
        except BaseExceptionGroup as errors:
            # The first failure ends the others; what they say about it adds nothing.
            failure = errors.exceptions[0]
            if isinstance(failure, ClosedByPeer):
                await self._answer_close()
            raise failure from None
        finally:
            if self._ack_timer is not None:
                self._ack_timer.cancel()
            self._over = True
            for probe in self._probes.values():
                probe.cancel()
            await self.stream.reset()

    async def _answer_close(self) -> None:
        with contextlib.suppress(NetworkError):
            await self.stream.write([Preamble(Kind.CLOSE, 0, 0, 0, *self._owner.counters()).encode()])
            await self.stream.close()

    def send(self, sequence: int, header: bytes, payload: list[memoryview], nbytes: int) -> None:
        received, consumed = self._owner.counters()
        preamble = Preamble(Kind.DATA, len(header), nbytes, sequence, received, consumed)
        self.outlet.push([preamble.encode(), header, *payload], alone=False)

    def send_control(self, kind: Kind, sequence: int = 0) -> None:
        received, consumed = self._owner.counters()
        frame: list[Buffer] = [Preamble(kind, 0, 0, sequence, received, consumed).encode()]
        # A CLOSE must come after the data before it; the others are better early.
        self.outlet.push(frame, urgent=kind is not Kind.CLOSE)

    def probe(self, nbytes: int) -> asyncio.Future[float]:
        """Send a payload of `nbytes` that nobody reads; when it arrived, seconds on the peer's clock.

        0: a ping, and when its answer arrived here, seconds on the loop's clock. The future is cancelled where the
        stream ends first.
        """
        self._ping += 1
        answer: asyncio.Future[float] = self._loop.create_future()
        if self._over:
            answer.cancel()
            return answer
        self._probes[self._ping] = answer
        if not nbytes:
            self.send_control(Kind.PING, self._ping)
            return answer
        preamble = Preamble(Kind.PROBE, 0, nbytes, self._ping, *self._owner.counters())
        self.outlet.push([preamble.encode(), memoryview(_PROBE)[:nbytes]])
        return answer

    def have_news(self) -> None:
        """Something was received or consumed: an acknowledgement leaves within `ack_delay_s`, or on a frame before."""
        if self._owner.news_is_pressing():
            self.send_control(Kind.ACK)
        elif self._ack_timer is None:
            self._ack_timer = self._loop.call_later(self._times.ack_delay_s, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if self._owner.owes_news():
            self.send_control(Kind.ACK)

    async def _beat(self) -> None:
        for beat in itertools.count(1):
            self._ping += 1
            self._pings[self._ping] = self._loop.time()
            if len(self._pings) > 64:
                del self._pings[next(iter(self._pings))]
            self.send_control(Kind.PING, self._ping)
            # A few early round trips: the first steps of a ring refine the latency that it was planned with.
            await asyncio.sleep(self._times.heartbeat_s / (8 if beat < FIRST_PINGS else 1))

    async def _watch(self) -> None:
        # Counts its own ticks instead of comparing clocks: a loop that stood still must not accuse its peer.
        ticks, before = 0, self.stream.bytes_received
        while ticks < 5:
            await asyncio.sleep(self._times.silence_s / 5)
            now = self.stream.bytes_received
            ticks, before = (0 if now != before else ticks + 1), now
        raise StreamClosed(f"silent for {self._times.silence_s:g} s")

    async def _read(self) -> None:
        while True:
            preamble, header, payload = await read_frame(self.stream, self._limits)
            if self.outlet.urgent_frames > MAX_CONTROL_FRAMES:
                raise ProtocolError(f"more than {MAX_CONTROL_FRAMES} control frames wait for a peer that does not read")
            self._owner.on_counters(preamble.received, preamble.consumed)
            match preamble.kind:
                case Kind.DATA:
                    self._owner.on_data(preamble.sequence, header, payload)
                case Kind.PING:
                    self.send_control(Kind.PONG, preamble.sequence)
                case Kind.PONG:
                    now = self._loop.time()
                    if (begun := self._pings.pop(preamble.sequence, None)) is not None:
                        self._owner.on_rtt(now - begun)
                    self._answered(preamble.sequence, now)
                case Kind.PROBE:
                    self._answer_probe(preamble.sequence)
                case Kind.PROBED:
                    self._answered(preamble.sequence, int.from_bytes(payload) / 1e9)
                case Kind.ACK:
                    pass
                case Kind.CLOSE:
                    raise ClosedByPeer("the peer closed the link")
                case Kind.OPEN:
                    raise ProtocolError("a handshake in the middle of a link")

    def _answer_probe(self, number: int) -> None:
        preamble = Preamble(Kind.PROBED, 0, 8, number, *self._owner.counters())
        self.outlet.push([preamble.encode(), int(self._loop.time() * 1e9).to_bytes(8)], urgent=True)

    def _answered(self, number: int, at: float) -> None:
        probe = self._probes.pop(number, None)
        if probe is not None and not probe.done():
            probe.set_result(at)
