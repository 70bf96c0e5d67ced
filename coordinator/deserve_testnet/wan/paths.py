"""How the emulated internet delays, limits and orders packets. Pure: knows no clock, socket or device.

A member's uplink and downlink are token clocks with a bounded queue (tail drop), a path between two members adds a
constant one-way delay and uniform jitter, and packets of one path never overtake each other. A member marked `near`
is the machine itself looking in: its packets are neither delayed nor limited.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["PathShape", "Paths"]


@dataclass(frozen=True)
class PathShape:
    """What every path between two members is like; a `mbit` of 0 means no limit."""

    latency_s: float
    jitter_s: float = 0.0
    mbit: float = 0.0
    queue_s: float = 0.2
    seed: int = 0


class Paths:
    """Packets in flight among `members` members; times are seconds of any one clock."""

    def __init__(self, members: int, shape: PathShape, *, near: Collection[int] = ()) -> None:
        self.members = members
        self.dropped = 0
        self._shape = shape
        self._near = frozenset(near)
        self._random = random.Random(shape.seed)
        self._bytes_per_s = shape.mbit * 125_000.0
        self._uplink_free = [0.0] * members
        self._downlink_free = [0.0] * members
        self._flights: dict[tuple[int, int], collections.deque[tuple[float, bytes]]] = {
            (source, target): collections.deque() for source in range(members) for target in range(members)
        }
        self._last_due = dict.fromkeys(self._flights, 0.0)

    def send(self, source: int, target: int, packet: bytes, size: int, now: float) -> bool:
        """Put a packet of `size` bytes on its way; False if a full queue dropped it."""
        due = now
        if source not in self._near and target not in self._near:
            arrival = self._through(self._uplink_free, source, size, now)
            if arrival is not None:
                arrival = self._through(self._downlink_free, target, size, arrival + self._shape.latency_s)
            if arrival is None:
                self.dropped += 1
                return False
            due = arrival + self._shape.jitter_s * self._random.random()
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

    def _through(self, free_at: list[float], member: int, size: int, now: float) -> float | None:
        if not self._bytes_per_s:
            return now
        begin = max(now, free_at[member])
        if begin - now > self._shape.queue_s:
            return None
        free_at[member] = begin + size / self._bytes_per_s
        return free_at[member]
