"""A control channel: the messages of one table over one stream, and the news that the other end is gone.

TCP does not notice a peer that is stopped or unplugged, so both ends ping when they have nothing to say, and a peer
that is silent for `silence_s` counts as dead. A channel does not reconnect: its owner opens a new one and says Hello.
Before its owner has reason to trust the peer it may hold the channel to small messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from deserve_network.errors import ChannelClosed, NetworkError, ProtocolError
from deserve_network.framing import Kind, Limits, Preamble, read_content, read_preamble
from deserve_network.schema import Table
from deserve_network.stream import Stream

__all__ = ["Channel"]

SILENCE_S = 15.0
UNREAD_MESSAGES = 64
"""Messages held for an owner that does not read; then the channel stops reading, and the sender has to wait."""


class Channel:
    """Messages to and from `peer_id`. Any number of tasks may send and receive; both are safe to cancel.

    `until_trusted`: bytes of the largest message that is read before `trust` is called; None: as large as the table
    allows from the start.
    """

    def __init__(
        self, stream: Stream, table: Table, *, silence_s: float = SILENCE_S, until_trusted: int | None = None
    ) -> None:
        self.peer_id = stream.peer_id
        self._stream = stream
        self._table = table
        self._silence_s = silence_s
        self._limits = Limits(header_bytes=table.max_bytes, payload_bytes=0)
        self._until_trusted = table.max_bytes if until_trusted is None else until_trusted
        self._trusted = asyncio.Event()
        self._messages: asyncio.Queue[Any] = asyncio.Queue(UNREAD_MESSAGES)
        self._closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._sequence = 0
        self._last_write = time.monotonic()
        self._task = asyncio.create_task(self._run(), name=f"channel to {self.peer_id}")

    def trust(self) -> None:
        """From now on the peer may send messages as large as the table allows."""
        self._trusted.set()

    async def send(self, message: object) -> None:
        """Raises `ChannelClosed`, also where the peer takes nothing for `silence_s`, and `SchemaError`."""
        if self._closed.done():
            raise ChannelClosed(self._closed.result())
        header = self._table.encode(message)
        self._sequence += 1
        await self._write(Preamble(Kind.DATA, header_bytes=len(header), sequence=self._sequence), header)

    async def _write(self, preamble: Preamble, header: bytes = b"") -> None:
        self._last_write = time.monotonic()
        try:
            async with asyncio.timeout(self._silence_s):
                await self._stream.write([preamble.encode(), header])
        except TimeoutError:
            self._end(f"{self.peer_id} took nothing for {self._silence_s:g} s")
            raise ChannelClosed(self._closed.result()) from None
        except NetworkError as error:
            self._end(f"{self.peer_id}: {error}")
            raise ChannelClosed(self._closed.result()) from error

    async def receive(self) -> Any:
        """The next message, in order. Raises `ChannelClosed` after the last one that arrived."""
        if self._messages.empty() and not self._closed.done():
            getter = asyncio.ensure_future(self._messages.get())
            try:
                await asyncio.wait([getter, self._closed], return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            except asyncio.CancelledError:
                # A message taken in the same moment must not be lost with the caller.
                if getter.done() and not getter.cancelled():
                    self._put_back(getter.result())
                raise
            finally:
                getter.cancel()
        if not self._messages.empty():
            return self._messages.get_nowait()
        raise ChannelClosed(self._closed.result())

    def _put_back(self, message: Any) -> None:
        rest = [self._messages.get_nowait() for _ in range(self._messages.qsize())]
        for item in [message, *rest]:
            self._messages.put_nowait(item)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._ping())
        except* NetworkError as group_error:
            self._end(f"{self.peer_id}: {group_error.exceptions[0]}")
        finally:
            self._end(f"{self.peer_id}: the channel was closed")
            await self._stream.reset()

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    preamble = await read_preamble(self._stream, self._limits)
                    await self._may_read(preamble)
                    header, _ = await read_content(self._stream, preamble)
            except TimeoutError:
                raise ChannelClosed(f"silent for {self._silence_s:g} s") from None
            if preamble.kind is Kind.DATA:
                await self._messages.put(self._table.decode(header))
            elif preamble.kind is not Kind.PING:
                raise ProtocolError(f"{preamble.kind.name} frame on a channel")

    async def _may_read(self, preamble: Preamble) -> None:
        """Wait with a large message until the peer is trusted: it may have come close behind the one that earns it."""
        if preamble.header_bytes <= self._until_trusted or self._trusted.is_set():
            return
        try:
            async with asyncio.timeout(self._silence_s / 2):
                await self._trusted.wait()
        except TimeoutError:
            raise ProtocolError(
                f"header of {preamble.header_bytes} bytes, at most {self._until_trusted} from a peer not yet trusted"
            ) from None

    async def _ping(self) -> None:
        interval = self._silence_s / 4
        while True:
            await asyncio.sleep(max(interval / 4, self._last_write + interval - time.monotonic()))
            if time.monotonic() - self._last_write >= interval:
                await self._write(Preamble(Kind.PING))

    def _end(self, reason: str) -> None:
        if not self._closed.done():
            self._closed.set_result(reason)

    async def close(self) -> None:
        """Send what is queued and end the channel. Safe to repeat; never raises for the network."""
        self._end(f"{self.peer_id}: the channel was closed")
        await self._stream.close()
        self._task.cancel()
        await asyncio.wait([self._task])
