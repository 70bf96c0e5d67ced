"""One libp2p stream as asyncio sees it, and its trio half.

The trio half (`Pump`) reads ahead into a bounded buffer and is the only writer of the stream: cancelling an asyncio
`write` never cancels the write underneath, which would corrupt the whole connection. What bytes mean is not decided
here (see `framing`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import trio

from deserve_network.byte_stream import Buffer
from deserve_network.errors import NetworkError, StreamClosed
from deserve_network.trio_thread import TrioThread

__all__ = ["Pump", "Stream"]

READ_AHEAD_BYTES = 8 << 20
"""A stream whose reader falls behind by this much pushes back through yamux; five seconds later its writer gives up."""
READ_BYTES = 1 << 20
JOIN_BYTES = 256 << 10
"""Smaller buffers are joined before they are written, larger ones go out as they are: each write is an encrypted
message of its own, which costs more than copying a step of some dozen rows (10 % of a small ring's processor time)."""
CLOSE_GRACE_S = 2.0


class ReadAhead:
    """Bytes between the trio reader and the asyncio reader. `push` and `finish` run in trio, `take` in asyncio."""

    def __init__(self, thread: TrioThread, limit: int) -> None:
        self._thread = thread
        self._limit = limit
        self._lock = threading.Lock()
        self._chunks: collections.deque[memoryview] = collections.deque()
        self._size = 0
        self._end: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room: trio.Event | None = None
        self.received = 0

    async def push(self, data: bytes) -> None:
        with self._lock:
            if self._end is not None:
                return  # abandoned: what follows a hole must not be read as if there were none
            # A view, so that what is left of a chunk is not copied for every piece taken from it.
            self._chunks.append(memoryview(data))
            self._size += len(data)
            self.received += len(data)
            waiter, self._waiter = self._waiter, None
            room = None
            if self._size >= self._limit:
                room = self._room = trio.Event()
        if waiter is not None:
            self._thread.notify(_wake, waiter)
        if room is not None:
            await room.wait()

    def finish(self, reason: str) -> None:
        with self._lock:
            if self._end is None:
                self._end = reason
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._thread.notify(_wake, waiter)

    def abandon(self, reason: str) -> None:
        """From asyncio: nobody will read any more."""
        with self._lock:
            if self._end is None:
                self._end = reason
            self._chunks.clear()
            self._size = 0
            waiter, self._waiter = self._waiter, None
            room, self._room = self._room, None
        if waiter is not None:
            _wake(waiter)
        self._release(room)

    def _release(self, room: trio.Event | None) -> None:
        if room is not None:
            try:
                self._thread.post(room.set)
            except NetworkError:
                return

    async def take(self, count: int) -> bytearray:
        """Exactly `count` bytes. Pieces are taken as they come, so `count` may exceed the limit."""
        taken = bytearray(count)
        missing = count
        while missing:
            with self._lock:
                while missing and self._chunks:
                    chunk = self._chunks.popleft()
                    if len(chunk) > missing:
                        self._chunks.appendleft(chunk[missing:])
                        chunk = chunk[:missing]
                    taken[count - missing : count - missing + len(chunk)] = chunk
                    missing -= len(chunk)
                    self._size -= len(chunk)
                room = None
                if self._room is not None and self._size <= self._limit // 2:
                    room, self._room = self._room, None
                if missing:
                    if self._end is not None:
                        raise StreamClosed(f"{self._end} ({count - missing} of {count} bytes had arrived)")
                    waiter = self._waiter = asyncio.get_running_loop().create_future()
            self._release(room)
            if missing:
                await waiter
        return taken


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _fail(waiter: asyncio.Future[None], reason: str) -> None:
    if not waiter.done():
        waiter.set_exception(StreamClosed(reason))


class Pump:
    """The trio half of one stream: a reader and a writer until both ends are done."""

    def __init__(self, net_stream: Any, thread: TrioThread, *, first_bytes_s: float | None) -> None:
        self.net_stream = net_stream
        self.thread = thread
        self.inbox = ReadAhead(thread, READ_AHEAD_BYTES)
        self.sent = 0
        self._first_bytes_s = first_bytes_s
        self._queue: collections.deque[tuple[Sequence[Buffer], asyncio.Future[None]]] = collections.deque()
        self._wake = trio.Event()
        self._closing: asyncio.Future[None] | None = None
        self._dead: str | None = None
        self._reset_begun = False

    async def run(self) -> None:
        """Until the stream is closed both ways or reset. Cancelled only when the whole host closes."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
        finally:
            self._die("the host is closed")

    async def _read(self) -> None:
        try:
            if self._first_bytes_s is not None:
                with trio.fail_after(self._first_bytes_s):
                    await self.inbox.push(await self.net_stream.read(READ_BYTES))
            while True:
                data = await self.net_stream.read(READ_BYTES)
                if not data:
                    break
                await self.inbox.push(data)
            self.inbox.finish("the peer closed the stream")
        except trio.TooSlowError:
            self._die(f"the peer said nothing for {self._first_bytes_s:g} s")
            self.reset()
        except Exception as error:  # noqa: BLE001 - libp2p raises unrelated types; all mean the same
            # A clean end is an exception too (StreamEOF); writing may go on after it.
            clean = type(error).__name__ == "StreamEOF"
            self.inbox.finish("the peer closed the stream" if clean else f"the stream broke: {_text(error)}")
            if not clean:
                self._die(f"the stream broke: {_text(error)}")

    async def _write(self) -> None:
        try:
            while self._dead is None:
                if not self._queue:
                    if self._closing is not None:
                        await self.net_stream.close()
                        break
                    await self._wake.wait()
                    self._wake = trio.Event()
                    continue
                batch = list(self._queue)
                self._queue.clear()
                try:
                    with trio.CancelScope(shield=True):
                        for piece in _pieces(batch):
                            await self.net_stream.write(piece)
                            self.sent += len(piece)
                except Exception as error:  # noqa: BLE001 - likewise
                    self._die(f"the stream broke: {_text(error)}", batch)
                    self.reset()
                    return
                for _, done in batch:
                    self.thread.notify(_wake, done)
        finally:
            if self._closing is not None:
                self.thread.notify(_wake, self._closing)

    def _die(self, reason: str, batch: Sequence[tuple[Sequence[Buffer], asyncio.Future[None]]] = ()) -> None:
        if self._dead is None:
            self._dead = reason
        self.inbox.finish(self._dead)
        for _, done in [*batch, *self._queue]:
            self.thread.notify(_fail, done, self._dead)
        self._queue.clear()
        self._wake.set()

    # Posted by the asyncio half.

    def enqueue(self, buffers: Sequence[Buffer], done: asyncio.Future[None]) -> None:
        if self._dead is not None or self._closing is not None:
            self.thread.notify(_fail, done, self._dead or "the stream is closed")
            return
        self._queue.append((buffers, done))
        self._wake.set()

    def finish(self, done: asyncio.Future[None]) -> None:
        if self._dead is not None or self._closing is not None:
            self.thread.notify(_wake, done)
            return
        self._closing = done
        self._wake.set()
        self.thread.spawn(self._expire)

    async def _expire(self) -> None:
        await trio.sleep(CLOSE_GRACE_S)
        self.reset()

    def reset(self) -> None:
        if not self._reset_begun:
            self._reset_begun = True
            self._die("the stream was reset")
            self.thread.spawn(self.net_stream.reset)


def _pieces(batch: Sequence[tuple[Sequence[Buffer], asyncio.Future[None]]]) -> Iterator[Buffer]:
    small: list[Buffer] = []
    size = 0
    for buffers, _ in batch:
        for buffer in buffers:
            if len(buffer) >= JOIN_BYTES:
                if small:
                    yield b"".join(small)
                    small, size = [], 0
                yield memoryview(buffer)
                continue
            small.append(buffer)
            size += len(buffer)
            if size >= JOIN_BYTES:
                yield b"".join(small)
                small, size = [], 0
    if small:
        yield b"".join(small)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Stream:
    """A libp2p stream as a `ByteStream`."""

    carrier = "libp2p"

    def __init__(self, pump: Pump, peer_id: str, protocol: str) -> None:
        self.peer_id = peer_id
        self.protocol = protocol
        self._pump = pump
        self._over = False

    @property
    def bytes_received(self) -> int:
        return self._pump.inbox.received

    @property
    def bytes_sent(self) -> int:
        return self._pump.sent

    async def read_exactly(self, count: int) -> bytearray:
        return await self._pump.inbox.take(count)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """As `ByteStream.write`; returns once yamux has taken all of it."""
        if self._over:
            raise StreamClosed("the stream is closed")
        done: asyncio.Future[None] = self._pump.thread.loop.create_future()
        self._pump.thread.post(self._pump.enqueue, buffers, done)
        await done

    def use_congestion(self, name: str) -> None:
        """The connection is that of all streams to the peer."""

    async def close(self) -> None:
        if self._over:
            return
        self._over = True
        done: asyncio.Future[None] = self._pump.thread.loop.create_future()
        try:
            self._pump.thread.post(self._pump.finish, done)
        except NetworkError:
            return
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                await done
        except TimeoutError:
            await self.reset()
        self._pump.inbox.abandon("the stream is closed")

    async def reset(self) -> None:
        self._over = True
        with contextlib.suppress(NetworkError):
            self._pump.thread.post(self._pump.reset)
        self._pump.inbox.abandon("the stream was reset")
