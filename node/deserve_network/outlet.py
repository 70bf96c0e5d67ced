"""The one writer of a link's stream: frames leave in order, control frames first, through an emulated line.

Without emulation a frame goes to the stream at once, many together where they queue. With it, a frame enters the line
when the line is free and is written when it would have arrived, so that many are under way at a time.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence

from deserve_network.emulation import Line
from deserve_network.stream import Buffer, Stream

__all__ = ["Outlet"]

BATCH_BYTES = 1 << 20
"""One write takes about this much, so that control frames never wait long behind data."""
TIMER_SLACK_S = 0.0005
"""Half of what epoll rounds a timeout up to: frames leave on time on average, without spinning."""

Frame = tuple[Sequence[Buffer], int]


class Outlet:
    def __init__(self, stream: Stream, line: Line) -> None:
        self._stream = stream
        self._line = line
        self._urgent: collections.deque[Frame] = collections.deque()
        self._bulk: collections.deque[Frame] = collections.deque()
        self._travelling: collections.deque[tuple[float, Frame]] = collections.deque()
        self._wake = asyncio.Event()

    def push(self, buffers: Sequence[Buffer], *, urgent: bool = False) -> None:
        """Queue one frame. What may be queued is bounded by the link's window."""
        (self._urgent if urgent else self._bulk).append((buffers, sum(map(len, buffers))))
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. Raises `StreamClosed`."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            batch = self._next_batch() if self._line.is_zero else self._arrived(now)
            if batch:
                await self._stream.write(batch)
                continue
            self._wake.clear()
            if self._travelling or self._urgent or self._bulk:
                due = self._travelling[0][0] if self._travelling else self._line.free_at
                if self._urgent or self._bulk:
                    due = min(due, self._line.free_at)
                alarm = loop.call_at(due - TIMER_SLACK_S, self._wake.set)
                await self._wake.wait()
                alarm.cancel()
            else:
                await self._wake.wait()

    def _next(self) -> Frame:
        return (self._urgent or self._bulk).popleft()

    def _next_batch(self) -> list[Buffer]:
        batch: list[Buffer] = []
        total = 0
        while (self._urgent or self._bulk) and total < BATCH_BYTES:
            buffers, nbytes = self._next()
            batch.extend(buffers)
            total += nbytes
        return batch

    def _arrived(self, now: float) -> list[Buffer]:
        while (self._urgent or self._bulk) and self._line.free_at <= now + TIMER_SLACK_S:
            frame = self._next()
            self._travelling.append((self._line.enter(now, frame[1]), frame))
        batch: list[Buffer] = []
        total = 0
        while self._travelling and self._travelling[0][0] <= now + TIMER_SLACK_S and total < BATCH_BYTES:
            _, (buffers, nbytes) = self._travelling.popleft()
            batch.extend(buffers)
            total += nbytes
        return batch
