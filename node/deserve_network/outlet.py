"""The one writer of a link's stream: frames leave in order, control frames first, through an emulated line.

Without emulation a frame goes to the stream at once, many together where they queue. With it, a frame enters the line
when it was offered and the line was free, and is written when it would have arrived, so that many are under way at a
time. Data frames may wait a moment for company: `coalesce` of them leave as one write.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence
from dataclasses import dataclass

from deserve_network.alarm import Alarm
from deserve_network.byte_stream import Buffer, ByteStream
from deserve_network.emulation import Line

__all__ = ["COALESCE_BYTES", "COALESCE_S", "Outlet"]

BATCH_BYTES = 128 << 10
"""One write takes about this much, or one frame: control frames wait behind what a slow line has been given."""
EARLY_S = 0.0001
"""Waking up takes longer than this; a frame so close to its time goes at once."""
COALESCE_S = 0.005
"""The longest that a frame waits for others."""
COALESCE_BYTES = 256 << 10
"""So much together is worth a write of its own: nothing waits any longer."""


@dataclass(frozen=True, slots=True)
class _Queued:
    buffers: Sequence[Buffer]
    nbytes: int
    since: float
    """When it was offered to the line. The line's own clock runs on it, not on when the loop came round to look: a late
    wake-up would be bandwidth lost for good."""


class Outlet:
    """`coalesce`: how many data frames leave together, 1 for each at once."""

    def __init__(self, stream: ByteStream, line: Line, coalesce: int = 1) -> None:
        self._stream = stream
        self._line = line
        self._coalesce = coalesce
        self._loop = asyncio.get_running_loop()
        self._urgent: collections.deque[_Queued] = collections.deque()
        self._bulk: collections.deque[_Queued] = collections.deque()
        self._travelling: collections.deque[tuple[float, _Queued]] = collections.deque()
        self._held: list[tuple[Sequence[Buffer], int]] = []
        self._held_bytes = 0
        self._release_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

    def push(self, buffers: Sequence[Buffer], *, urgent: bool = False, alone: bool = True) -> None:
        """Queue one frame. The link's window bounds how much data queues; `urgent_frames` is the caller's to watch.

        An urgent frame overtakes the others; one that is not `alone` may wait for others of its kind.
        """
        nbytes = sum(map(len, buffers))
        if urgent:
            self._urgent.append(_Queued(buffers, nbytes, self._loop.time()))
            self._wake.set()
            return
        self._held.append((buffers, nbytes))
        self._held_bytes += nbytes
        if alone or len(self._held) >= self._coalesce or self._held_bytes >= COALESCE_BYTES:
            self._release()
        elif self._release_timer is None:
            self._release_timer = self._loop.call_later(COALESCE_S, self._release)

    @property
    def urgent_frames(self) -> int:
        """Urgent frames that wait for the stream or the line."""
        return len(self._urgent)

    def set_coalesce(self, coalesce: int) -> None:
        self._coalesce = coalesce
        if len(self._held) >= coalesce:
            self._release()

    def _release(self) -> None:
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        now = self._loop.time()
        self._bulk.extend(_Queued(buffers, nbytes, now) for buffers, nbytes in self._held)
        self._held.clear()
        self._held_bytes = 0
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. Raises `StreamClosed`."""
        alarm = None if self._line.is_zero else Alarm(self._wake.set)
        try:
            while True:
                batch = self._next_batch() if self._line.is_zero else self._arrived(self._loop.time())
                if batch:
                    await self._stream.write(batch)
                    continue
                self._wake.clear()
                if alarm is not None and (due := self._due()) is not None:
                    alarm.set(due - EARLY_S)
                await self._wake.wait()
        finally:
            if alarm is not None:
                alarm.close()
            if self._release_timer is not None:
                self._release_timer.cancel()

    def _due(self) -> float | None:
        """When there is something to do next, if nothing new comes."""
        due = self._travelling[0][0] if self._travelling else None
        if self._urgent or self._bulk:
            return self._line.free_at if due is None else min(due, self._line.free_at)
        return due

    def _next(self) -> _Queued:
        return (self._urgent or self._bulk).popleft()

    def _next_batch(self) -> list[Buffer]:
        batch: list[Buffer] = []
        total = 0
        while (self._urgent or self._bulk) and total < BATCH_BYTES:
            queued = self._next()
            batch.extend(queued.buffers)
            total += queued.nbytes
        return batch

    def _arrived(self, now: float) -> list[Buffer]:
        while (self._urgent or self._bulk) and self._line.free_at <= now + EARLY_S:
            queued = self._next()
            self._travelling.append((self._line.enter(queued.since, queued.nbytes), queued))
        batch: list[Buffer] = []
        total = 0
        while self._travelling and self._travelling[0][0] <= now + EARLY_S and total < BATCH_BYTES:
            _, queued = self._travelling.popleft()
            batch.extend(queued.buffers)
            total += queued.nbytes
        return batch
