"""How the emulated internet delays, limits and orders packets. Pure: knows no clock, socket or device.

A member's uplink and downlink are token clocks with a bounded queue (tail drop), a path between two members adds a
constant one-way delay and uniform jitter, and packets of one path never overtake each other. A member marked `near`
is the machine itself looking in: its packets are neither delayed nor limited.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["Access", "PathDelay", "PathShape", "Paths"]


@dataclass(frozen=True)
class PathShape:
    """What every path between two members is like; a `mbit` of 0 means no limit."""

    latency_s: float
    jitter_s: float = 0.0
    mbit: float = 0.0
    queue_s: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Access:
    """A member's own line: `latency_s` on top of any path's; a bandwidth of None is that of all, 0 is no limit."""

    latency_s: float = 0.0
    uplink_mbit: float | None = None
    downlink_mbit: float | None = None


@dataclass(frozen=True)
class PathDelay:
    """Of one path, instead of that of all and its members'."""

    latency_s: float
    jitter_s: float


class Paths:
    """Packets in flight among `members` members; times are seconds of any one clock."""

    def __init__(
        self,
        members: int,
        shape: PathShape,
        *,
        near: Collection[int] = (),
        access: Mapping[int, Access] | None = None,
        delays: Mapping[tuple[int, int], PathDelay] | None = None,
    ) -> None:
        """`access` are members and `delays` paths (source, target) that differ from the others."""
        self.members = members
        self.dropped = 0
        self._queue_s = shape.queue_s
        self._near = frozenset(near)
        self._random = random.Random(shape.seed)
        own = [(access or {}).get(member, Access()) for member in range(members)]
        self._uplinks = [_Line(shape.mbit if one.uplink_mbit is None else one.uplink_mbit) for one in own]
        self._downlinks = [_Line(shape.mbit if one.downlink_mbit is None else one.downlink_mbit) for one in own]
        self._delays = {
            (source, target): PathDelay(shape.latency_s + own[source].latency_s + own[target].latency_s, shape.jitter_s)
            for source in range(members)
            for target in range(members)
        } | dict(delays or {})
        self._flights: dict[tuple[int, int], collections.deque[tuple[float, bytes]]] = {
            (source, target): collections.deque() for source in range(members) for target in range(members)
        }
        self._last_due = dict.fromkeys(self._flights, 0.0)

    def send(self, source: int, target: int, packet: bytes, size: int, now: float) -> bool:
        """Put a packet of `size` bytes on its way; False if a full queue dropped it."""
        due = now
        if source not in self._near and target not in self._near:
            delay = self._delays[source, target]
            arrival = self._uplinks[source].through(size, now, self._queue_s)
            if arrival is not None:
                arrival = self._downlinks[target].through(size, arrival + delay.latency_s, self._queue_s)
            if arrival is None:
                self.dropped += 1
                return False
            due = arrival + delay.jitter_s * self._random.random()
        path = (source, target)
        due = self._last_due[path] = max(due, self._last_due[path])
        self._flights[path].append((due, packet))
        return True

    def arrivals(self, now: float) -> tuple[list[tuple[int, bytes]], float | None]:
        """What is due as (target, packet), and when the next packet will be (None if nothing is in flight)."""
        arrived: list[tuple[int, bytes]] = []
        upcoming: float | None = None
        for (_, target), flight in self._flights.items():
            while flight and flight[0][0] <= now:
                arrived.append((target, flight.popleft()[1]))
            if flight and (upcoming is None or flight[0][0] < upcoming):
                upcoming = flight[0][0]
        return arrived, upcoming


class _Line:
    """One direction of a member's line, a token clock; a `mbit` of 0 means no limit."""

    def __init__(self, mbit: float) -> None:
        self._bytes_per_s = mbit * 125_000.0
        self._free_at = 0.0

    def through(self, size: int, now: float, queue_s: float) -> float | None:
        """When a packet of `size` bytes that comes at `now` is through; None where the queue is full."""
        if not self._bytes_per_s:
            return now
        begin = max(now, self._free_at)
        if begin - now > queue_s:
            return None
        self._free_at = begin + size / self._bytes_per_s
        return self._free_at
