"""How long a link takes and how much it carries, found by trains of probes: what to send next, and what follows.

A train is a run of equal payloads sent at once. The peer says when each had arrived, and the gaps between them are the
time that the narrowest part of the way took for one (packet-train dispersion; Dovrolis, Ramanathan and Moore, *What do
packet dispersion techniques measure?*, INFOCOM 2001). Trains grow with the rate that the last one saw: a 1 Mbit/s
uplink is never sent more than it carries in a moment, and a fast line gets enough to be timed at all.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deserve_network.control_messages import LinkMeasure
from deserve_network.framing import PREAMBLE_BYTES

__all__ = ["Train", "bandwidth_of", "latency_of", "measure_link", "next_probe_bytes", "steadier_latency"]

PROBES = 16
"""Payloads in a train."""
FIRST_PROBE_BYTES = 4 << 10
LAST_PROBE_BYTES = 512 << 10
GROWTH = 16
"""From one train to the next, at most: TCP's slow start makes the first ones look slow."""
LONG_ENOUGH_S = 0.15
"""An arrival's time is known to about a millisecond."""
AIM_S = 0.3
AIM_ROUND_TRIPS = 2
"""What a train should take, at least: TCP's window grows only while data waits for it, once a round trip."""
STEADY = 1.25
"""A train this much faster than the one before it is still in TCP's slow start. One this much slower has just met a
window that the one before fitted into."""
UNBOUNDED_BYTES_PER_S = 200e6
"""What moves so fast is bound by processors, not by the line."""
PINGS = 12
PING_INTERVAL_S = 0.008
BUDGET_S, BUDGET_ROUND_TRIPS = 2.0, 16
"""Together the end of the trains, whatever was found until then."""

Probe = Callable[[int], "asyncio.Future[float]"]
"""`Session.probe`."""


@dataclass(frozen=True, slots=True)
class Train:
    """`arrivals`: seconds, ascending, two at least."""

    probe_bytes: int
    arrivals: tuple[float, ...]

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last, in which all payloads but one travelled."""
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def gap_s(self) -> float:
        """Of one payload: the median of all pairs' slopes (Theil and Sen), which a few late arrivals do not move."""
        return statistics.median(
            (after - before) / (later - earlier)
            for (earlier, before), (later, after) in itertools.combinations(enumerate(self.arrivals), 2)
        )

    @property
    def bytes_per_s(self) -> float:
        return (self.probe_bytes + PREAMBLE_BYTES) / self.gap_s if self.gap_s > 0 else math.inf

    @property
    def spread(self) -> float:
        """Half of what the middle two thirds of the gaps differ by, over the median gap: a standard deviation that
        outliers do not move."""
        gaps = sorted(after - before for before, after in itertools.pairwise(self.arrivals))
        sixth = len(gaps) // 6
        return (gaps[-1 - sixth] - gaps[sixth]) / 2 / self.gap_s if self.gap_s > 0 else 0.0


def next_probe_bytes(trains: Sequence[Train], rtt_s: float = 0.0) -> int | None:
    """Size of the next train's payloads over a line of this round trip; None where the trains so far say enough."""
    if not trains:
        return FIRST_PROBE_BYTES
    last = trains[-1]
    steady = len(trains) > 1 and 1 / STEADY <= last.bytes_per_s / trains[-2].bytes_per_s <= STEADY
    if last.probe_bytes >= LAST_PROBE_BYTES or (steady and last.duration_s >= LONG_ENOUGH_S):
        return None
    aim_s = max(AIM_S, AIM_ROUND_TRIPS * rtt_s)
    wanted = min(last.bytes_per_s * aim_s / PROBES, last.probe_bytes * GROWTH, LAST_PROBE_BYTES)
    return max(FIRST_PROBE_BYTES, int(wanted))


def bandwidth_of(trains: Sequence[Train]) -> tuple[float, float]:
    """Bytes a second and their relative spread, by the last train; 0 bytes a second: no bound was found."""
    if not trains or trains[-1].bytes_per_s >= UNBOUNDED_BYTES_PER_S:
        return 0.0, 0.0
    return trains[-1].bytes_per_s, trains[-1].spread


def latency_of(rtts: Sequence[float]) -> tuple[float, float]:
    """One-way seconds and their spread (95th percentile less the least) from round trips of small frames."""
    if not rtts:
        return 0.0, 0.0
    ordered = sorted(rtts)
    high = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
    return ordered[0] / 2, (high - ordered[0]) / 2


def steadier_latency(*series: Sequence[float]) -> tuple[float, float]:
    """The least latency of several series of pings, and the least spread within one: an end that was busy during the
    first has had time since, and what a train left in the line's queue met only those after it."""
    found = [latency_of(rtts) for rtts in series if rtts]
    return min(latency for latency, _ in found), min(spread for _, spread in found)


async def measure_link(probe: Probe, silence_s: float) -> LinkMeasure | None:
    """Measure through `probe`. None where the stream ended meanwhile.

    `silence_s`: how long a ping's answer may take. Raises `TimeoutError` where none comes within it.
    """
    loop = asyncio.get_running_loop()
    rtts = await _ping(probe, silence_s)
    if not rtts:
        return None
    rtt_s = min(rtts)
    deadline = loop.time() + BUDGET_S + BUDGET_ROUND_TRIPS * rtt_s
    trains: list[Train] = []
    while (nbytes := next_probe_bytes(trains, rtt_s)) is not None and loop.time() < deadline:
        answers = [probe(nbytes) for _ in range(PROBES)]
        await asyncio.wait(answers, timeout=deadline - loop.time())
        if any(answer.cancelled() for answer in answers):
            return None
        arrivals = tuple(sorted(answer.result() for answer in answers if answer.done()))
        if len(arrivals) > 1:
            trains.append(Train(nbytes, arrivals))
        if len(arrivals) < PROBES:
            break
    latency_s, latency_spread_s = steadier_latency(rtts, await _ping(probe, silence_s))
    bytes_per_s, bandwidth_spread = bandwidth_of(trains)
    return LinkMeasure(latency_s, latency_spread_s, bytes_per_s, bandwidth_spread)


async def _ping(probe: Probe, silence_s: float) -> list[float]:
    """Round trips of a few pings, seconds; none where the stream ends. Raises `TimeoutError` where none is answered."""
    loop = asyncio.get_running_loop()
    begun: list[float] = []
    pings: list[asyncio.Future[float]] = []
    for _ in range(PINGS):
        begun.append(loop.time())
        pings.append(probe(0))
        await asyncio.sleep(PING_INTERVAL_S)
    _, missing = await asyncio.wait(pings, timeout=silence_s)
    if len(missing) == PINGS:
        raise TimeoutError(f"no ping was answered within {silence_s:g} s")
    return [pong.result() - start for start, pong in zip(begun, pings, strict=True) if _answered(pong)]


def _answered(probe: asyncio.Future[float]) -> bool:
    return probe.done() and not probe.cancelled()
