"""A link between two neighbours of a ring: messages with payloads, in order, exactly once, across broken streams.

A link outlives its streams. When one breaks, the dialer opens the next, both ends say what they have received, and
what is missing is sent again; nobody above notices more than a pause. After `reconnect_s` without success the link is
lost for good (`LinkLost`), which is the ring's business. Pairing the two ends is that of `links`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deserve_network.byte_stream import Buffer, ByteStream
from deserve_network.control_messages import LinkMeasure, LinkShape
from deserve_network.emulation import Line
from deserve_network.errors import ClosedByPeer, LinkLost, LinkRefused, NetworkError, ProtocolError
from deserve_network.framing import Kind, Limits, byte_views
from deserve_network.link_measure import measure_link
from deserve_network.link_messages import NONCE_BYTES, Open, Opened
from deserve_network.link_session import LinkTimes, Session
from deserve_network.link_state import LinkState, Window
from deserve_network.schema import Table

__all__ = ["MAX_PAYLOAD_BYTES", "Frame", "Link"]

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 64 << 20
RTT_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Frame:
    message: Any
    payload: memoryview
    """Bytes of the frame alone, writable; empty where the message has none."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A frame as it waits for its acknowledgement."""

    header: bytes
    payload: list[memoryview]
    payload_bytes: int


Connect = Callable[["Link", float], Awaitable[tuple[ByteStream, Opened | Open]]]
"""Bring the next stream, handshake done, before a deadline (loop time); raises `NetworkError` when it passes."""


class Link:
    """Made by `Links.dial` and `Links.accept`. One task receives; any number may send. Both are safe to cancel."""

    def __init__(
        self,
        name: str,
        peer_id: str,
        *,
        table: Table,
        shape: LinkShape,
        dialer: bool,
        window: Window,
        times: LinkTimes,
        connect: Connect,
    ) -> None:
        self.name = name
        self.peer_id = peer_id
        self._rtts: collections.deque[float] = collections.deque(maxlen=RTT_SAMPLES)
        self.bytes_sent = 0
        self.bytes_received = 0
        """Headers and payloads of data frames, each counted once however often it travelled."""
        self.streams = 0
        """Streams this link has lived on; more than one means that it was restored."""
        self.may_be_direct = True
        """Whether a direct socket is worth trying; at the dialer."""
        self.session_id = secrets.token_bytes(NONCE_BYTES)
        self.peer_session_id = b""
        self.state: LinkState[_Content] = LinkState(window)
        self.times = times
        self._table = table
        self._limits = Limits(table.max_bytes, MAX_PAYLOAD_BYTES)
        self._line = Line(shape, f"{name}/{'out' if dialer else 'back'}")
        self._connect = connect
        self._coalesce = 1
        self._session: Session | None = None
        self._inbox: collections.deque[Frame] = collections.deque()
        self._arrival = asyncio.Event()
        self._progress = asyncio.Event()
        self._turn = asyncio.Lock()
        self._standing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost: NetworkError | None = None
        self._over = False
        self._task = asyncio.create_task(self._run(), name=f"link {name}")

    # What the ring uses.

    @property
    def rtt_s(self) -> float:
        """The shortest of the last heartbeats' round trips, emulation included; 0 before the first.

        The shortest, because a busy process at either end only adds to it.
        """
        return min(self._rtts, default=0.0)

    @property
    def carrier(self) -> str:
        """What the present stream travels on; empty between two streams."""
        return self._session.stream.carrier if self._session is not None else ""

    @property
    def coalesce(self) -> int:
        """How many data frames may leave as one write. Above 1, a frame waits for others, 5 ms at most."""
        return self._coalesce

    @coalesce.setter
    def coalesce(self, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"coalesce: at least 1 frame, not {frames}")
        self._coalesce = frames
        if self._session is not None:
            self._session.outlet.set_coalesce(frames)

    @property
    def lost(self) -> bool:
        """Whether the link has ended for good."""
        return self._lost is not None

    async def send(self, message: object, payload: Sequence[Buffer] = ()) -> None:
        """Hand over one frame; returns as soon as the peer's window has room for it.

        `payload`: contiguous buffers of any type, sent back to back. They are not copied: they must not change until
        the peer has acknowledged the frame. Raises `LinkLost`, and `SchemaError` or `ProtocolError` where the frame is
        over a limit.
        """
        header = self._table.encode(message)
        views = byte_views(payload)
        nbytes = sum(view.nbytes for view in views)
        if nbytes > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"payload of {nbytes} bytes, at most {MAX_PAYLOAD_BYTES}")
        total = len(header) + nbytes
        async with self._turn:
            while self._lost is None and not self.state.room_for(total):
                await self._news()
            if self._lost is not None:
                raise LinkLost(f"link {self.name} to {self.peer_id}: {self._lost}") from self._lost
            outgoing = self.state.send(_Content(header, views, nbytes), total)
            self.bytes_sent += total
            if self._session is not None:
                self._session.send(outgoing.sequence, header, views, nbytes)

    async def receive(self) -> Frame:
        """The next frame. Raises `LinkLost` once the link is lost and every frame that had arrived is taken."""
        while not self._inbox:
            if self._lost is not None:
                raise LinkLost(f"link {self.name} to {self.peer_id}: {self._lost}") from self._lost
            self._arrival.clear()
            await self._arrival.wait()
        frame = self._inbox.popleft()
        self.state.consume()
        if self._session is not None:
            self._session.have_news()
        return frame

    async def measure(self) -> LinkMeasure:
        """Latency and bandwidth from here to the peer, by frames of their own beside whatever else is under way.

        Takes about two seconds and 18 round trips at most, on each stream: it starts over where one breaks. Raises
        `LinkLost`, also where the peer answers no ping within `silence_s`.
        """
        while True:
            session = self._session
            if self._lost is not None:
                raise LinkLost(f"link {self.name} to {self.peer_id}: {self._lost}") from self._lost
            if session is None:
                await self._news()
                continue
            try:
                measured = await measure_link(session.probe, self.times.silence_s)
            except TimeoutError as error:
                raise LinkLost(f"link {self.name} to {self.peer_id}: {error}") from error
            if measured is not None:
                return measured

    async def close(self) -> None:
        """Wait for acknowledgements and tell the peer (`flush_s` at most), then end. Safe to repeat; never raises."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.flush_s):
                told = None
                while self.streams and self._lost is None:
                    # It follows the data, and the peer answers in kind once it has all of it. A stream that breaks
                    # before is replaced, and the next one told again.
                    if self._session is not told and self._session is not None:
                        self._session.send_control(Kind.CLOSE)
                        told = self._session
                    await self._news()
        self._over = True
        self._task.cancel()
        await asyncio.wait([self._task])

    # What `Links` calls.

    async def established(self) -> None:
        """Until the first stream stands. Raises `LinkRefused` or `LinkLost`."""
        await asyncio.shield(self._standing)

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call back once the link is lost or closed."""
        self._task.add_done_callback(lambda _: callback())

    async def drop_stream(self) -> None:
        """Give up the present stream, if any; the next one resumes the link."""
        if self._session is not None:
            await self._session.stream.reset()

    # What its session calls.

    def counters(self) -> tuple[int, int]:
        return self.state.tell()

    def owes_news(self) -> bool:
        return self.state.owes_news

    def news_is_pressing(self) -> bool:
        return self.state.news_is_pressing

    def on_counters(self, received: int, consumed: int) -> None:
        before = (self.state.peer_received, self.state.peer_consumed)
        self.state.heard(received, consumed)
        if before != (self.state.peer_received, self.state.peer_consumed):
            self._progress.set()

    def on_data(self, sequence: int, header: bytearray, payload: bytearray) -> None:
        message = self._table.decode(header)
        if self.state.accept(sequence, len(header) + len(payload)):
            self.bytes_received += len(header) + len(payload)
            self._inbox.append(Frame(message, memoryview(payload)))
            self._arrival.set()
        if self._session is not None:
            self._session.have_news()

    def on_rtt(self, seconds: float) -> None:
        self._rtts.append(seconds)

    # Its life.

    async def _news(self) -> None:
        """Until the peer has received or consumed more, or a stream came or went."""
        self._progress.clear()
        await self._progress.wait()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            deadline = loop.time() + self.times.connect_s
            while True:
                stream, answer = await self._connect(self, deadline)
                try:
                    await self._live(stream, answer)
                except (ClosedByPeer, ProtocolError, LinkRefused):
                    raise
                except NetworkError:
                    if self._over:
                        # A task group that fails in the moment it is cancelled reports the failure only.
                        raise LinkLost("closed") from None
                    deadline = loop.time() + self.times.reconnect_s
        except NetworkError as error:
            self._lose(error)
        except asyncio.CancelledError:
            self._lose(LinkLost("closed"))
            raise
        except Exception:
            log.exception("link %s failed", self.name)
            self._lose(LinkLost("an error of our own, see the log"))

    async def _live(self, stream: ByteStream, answer: Opened | Open) -> None:
        session = Session(stream, self._line, self, self._limits, self.times, self._coalesce)
        self.streams += 1
        window = Window(answer.window_bytes, answer.window_frames)
        try:
            missing = self.state.resume(answer.received, answer.consumed, window)
        except ProtocolError:
            await stream.reset()
            raise
        for outgoing in missing:
            content = outgoing.frame
            session.send(outgoing.sequence, content.header, content.payload, content.payload_bytes)
        self._session = session
        if not self._standing.done():
            self._standing.set_result(None)
        self._progress.set()
        try:
            await session.run()
        finally:
            self._session = None
            self._progress.set()

    def _lose(self, error: NetworkError) -> None:
        self._lost = error
        if not self._standing.done():
            self._standing.set_exception(error)
            self._standing.exception()
        self._arrival.set()
        self._progress.set()
