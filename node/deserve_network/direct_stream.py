"""A TLS socket as a stream of a link: everything happens in the event loop's own thread, with as little as possible.

A readable socket is decrypted straight into the buffer that the reader waits for, a write goes to the socket in the
call that asks for it, and only what a full socket leaves behind waits for the loop. A write that is cancelled still
happens: half a TLS record would corrupt all that follows.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence

from deserve_network.byte_stream import Buffer
from deserve_network.congestion import set_congestion
from deserve_network.errors import StreamClosed

__all__ = ["DirectStream", "handshake"]

JOIN_BYTES = 8 << 10
"""Smaller buffers are joined: each call of `send` makes a TLS record, and a packet, of its own."""
SLICE_BYTES = 256 << 10
"""What one call encrypts; a socket that takes less has to be given the very same bytes again."""
TURN_BYTES = 1 << 20
"""Read in one go before the loop's other work has its turn."""
KEY_BYTES = 256 << 30
"""Under one key, in either direction: AES-GCM keeps its margin for 2^24.5 records of 16 KiB, about 380 GiB (RFC 8446,
5.5). Python cannot update a key, so the stream ends and the link goes on with the next."""
CLOSE_GRACE_S = 2.0
DROP_BYTES = 64 << 10


class DirectStream:
    """A `ByteStream`. `tls`: connected, non-blocking, its handshake done. `on_end` is called once it is closed."""

    carrier = "tls"

    def __init__(self, tls: ssl.SSLSocket, certificate_pin: bytes, on_end: Callable[[DirectStream], object]) -> None:
        self.peer_id = ""
        """Set by whoever has found it out."""
        self.certificate_pin = certificate_pin
        """Of the other end; that of nothing where it shows none."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._tls = tls
        self._descriptor = tls.fileno()
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._missing = memoryview(b"")
        """What the reader still waits for."""
        self._reader: asyncio.Future[None] | None = None
        self._queue: collections.deque[Buffer] = collections.deque()
        self._writers: list[asyncio.Future[None]] = []
        self._listening = False
        self._blocked = False
        self._closing = False
        self._end: str | None = None

    # Reading.

    async def read_exactly(self, count: int) -> bytearray:
        taken = bytearray(count)
        self._missing = memoryview(taken)
        self._fill()
        if self._missing:
            if self._end is not None or self._closing:
                had = count - len(self._missing)
                raise StreamClosed(f"{self._end or 'the stream is closed'} ({had} of {count} bytes had arrived)")
            try:
                await self._until_woken()
            except asyncio.CancelledError:
                self._finish("a read was given up")  # what it had taken is lost
                raise
        return taken

    async def _until_woken(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _fill(self) -> None:
        """Take what has arrived, as far as the reader wants it; wake it once it has all."""
        if self._end is not None or self._closing:
            return
        if not self._missing:
            self._listening = False
            self._loop.remove_reader(self._descriptor)
            return
        turn = TURN_BYTES
        try:
            while self._missing and turn > 0:
                if not (taken := self._tls.recv_into(self._missing)):
                    self._finish("the peer closed the stream")
                    return
                self._missing = self._missing[taken:]
                self.bytes_received += taken
                turn -= taken
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not self._listening:
                self._listening = True
                self._loop.add_reader(self._descriptor, self._fill)
            return
        except OSError as error:
            self._finish(f"the stream broke: {_text(error)}")
            return
        if self._missing:
            self._loop.call_soon(self._fill)
        elif self.bytes_received > KEY_BYTES:
            self._finish("its keys are used up")
        else:
            self._wake_reader()

    # Writing.

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """As `ByteStream.write`; returns once the socket has taken everything that was queued."""
        if self._end is not None or self._closing:
            raise StreamClosed(self._end or "the stream is closed")
        self._queue.extend(_slices(buffers))
        await self._flushed()

    async def _flushed(self) -> None:
        if not self._blocked:
            self._flush()
        if self._end is not None:
            raise StreamClosed(self._end)
        if self._queue:
            writer: asyncio.Future[None] = self._loop.create_future()
            self._writers.append(writer)
            await writer

    def _flush(self) -> None:
        try:
            while self._queue:
                self.bytes_sent += self._tls.send(self._queue[0])
                self._queue.popleft()
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._descriptor, self._flush)
            return
        except OSError as error:
            self._finish(f"the stream broke: {_text(error)}")
            return
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._descriptor)
        if self.bytes_sent > KEY_BYTES:
            self._finish("its keys are used up")
            return
        for writer in self._writers:
            if not writer.done():
                writer.set_result(None)
        self._writers.clear()

    def use_congestion(self, name: str) -> None:
        set_congestion(self._tls, name)

    # Ending.

    async def close(self) -> None:
        if self._closing or self._end is not None:
            return
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self._flushed()
                self._closing = True
                if self._reader is not None and not self._reader.done():
                    self._reader.set_exception(StreamClosed("the stream is closed"))
                self._tls.shutdown(socket.SHUT_WR)
                self._loop.add_reader(self._descriptor, self._wake_reader)
                # Closing a socket that holds unread bytes would reset it, and lose what is under way to the peer.
                while self._holds_more():
                    await self._until_woken()
        except (StreamClosed, TimeoutError, OSError):
            pass  # it ends here in any case
        finally:
            self._finish("the stream is closed")

    def _holds_more(self) -> bool:
        """Drop what the peer still sends; False once it has sent everything."""
        with contextlib.suppress(BlockingIOError):
            while self._tls.recv(DROP_BYTES):
                pass
            return False
        return True

    async def reset(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """As `reset`, for where nothing can be awaited."""
        self._finish("the stream was reset")

    def _finish(self, reason: str) -> None:
        if self._end is not None:
            return
        self._end = reason
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._tls.close()
        self._queue.clear()
        for waiter in [*self._writers, *([self._reader] if self._reader is not None else [])]:
            if not waiter.done():
                waiter.set_exception(StreamClosed(reason))
        self._writers.clear()
        self._on_end(self)


async def handshake(tls: ssl.SSLSocket) -> None:
    """Shake hands on a connected, non-blocking socket. Raises `OSError`, of which `ssl.SSLError` is one."""
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            await ready(tls.fileno(), write=False)
        except ssl.SSLWantWriteError:
            await ready(tls.fileno(), write=True)


async def ready(descriptor: int, *, write: bool) -> None:
    """Until a socket can be read or written."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(descriptor, wake)
    try:
        await woken
    finally:
        remove(descriptor)


def _slices(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < JOIN_BYTES:
            small.append(buffer)
            continue
        if small:
            yield b"".join(small)
            small = []
        view = memoryview(buffer)
        yield from (view[at : at + SLICE_BYTES] for at in range(0, len(view), SLICE_BYTES))
    if small:
        yield b"".join(small)


def _text(error: OSError) -> str:
    return error.strerror or type(error).__name__
