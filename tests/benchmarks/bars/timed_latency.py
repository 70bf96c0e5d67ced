"""Bars a and b on timed stages: what latency costs a ring that plans for it, and how close it comes to its bound.

Every stage takes 2 ms and 1.5 ms a token for a step: large batches, where arithmetic and not the reading of weights
takes the time. Every latency gets the rows that the largest one needs, or less latency would mean smaller steps. Memory
holds all rows. What a stage that reads weights for most of its step makes of latency, and of
memory that does not hold all rows, is bar d's.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from bars.group import Settings, say_skipped
from bars.journal import Figures, Journal
from bars.networks import SteadyNetwork, rows_in_flight, write_profile
from bars.rounds import Experiment
from bars.rows import Requirement, Row
from bars.steady import Rows
from deserve_testnet.config import TestnetConfig, Wan
from deserve_testnet.wan.internet import why_unavailable

__all__ = ["LATENCIES_MS", "experiments", "name_of", "rows", "share_of_bound"]

_WANS: tuple[Wan, ...] = ("inline", "netns")
STAGES = (4, 8)
LATENCIES_MS = (0, 64, 128, 256, 512)
_BARS = {64: 0.995, 128: 0.995, 256: 0.995, 512: 0.98}
_FIXED_MS, _TOKEN_MS = 2.0, 1.5
_PROMPT, _NEW = 2, 128
"""Short prompts: how many rows happen to end within a window hardly changes what it generates."""
_MICROBATCH = 64
_PROFILE = {
    "fixed_ms": _FIXED_MS,
    "token_ms": _TOKEN_MS,
    "hidden": 512,
    "dtype": "bfloat16",
    "page_tokens": 16,
    "device_pages": 100_000,
}
_CONGESTION = "cubic"
"""In namespaces, where the kernel's TCP sees the latency: Linux's default, whatever this machine's is."""
_RATE = _MICROBATCH / (_FIXED_MS + _TOKEN_MS * _MICROBATCH * (1 + _PROMPT / _NEW)) * 1e3
"""Tokens per second of microbatches of 64 rows, back to back."""


def experiments(settings: Settings) -> list[Experiment]:
    profile = write_profile(settings.scratch / "latency.toml", _PROFILE)
    found = []
    for wan in _WANS:
        if wan == "netns" and (why := why_unavailable()):
            say_skipped("a, in namespaces", why)
            continue
        for stages in STAGES:
            networks = [_network(profile, stages, latency, wan, settings) for latency in _latencies(settings)]
            rounds = settings.rounds if wan == "inline" else 1
            contestants = tuple(network.contestant() for network in networks)
            # Forty node processes at once would leave little memory, and their heartbeats some noise.
            kept = wan == "inline" and stages < max(STAGES)
            found.append(Experiment(name_of(stages, wan), contestants, rounds, kept))
    return found


def rows(journal: Journal, settings: Settings) -> list[Row]:
    return [*_ratios(journal), *_bounds(journal)]


def name_of(stages: int, wan: Wan) -> str:
    return f"a {stages} stages" if wan == "inline" else f"a {stages} stages, namespaces"


def share_of_bound(figures: Figures, fixed_s: float, token_s: float) -> float:
    """Measured tokens/s over the bound, max of a stage alone and processor time over cores.

    A stage alone takes its profile's time for the very steps of the window, one after the other: the share of the
    window that this makes is measured over bound. All stages are equal here. They are asked some milliseconds after the
    head's window begins and ends, when one or the other may have ended a step more: the median leaves such a step out.
    Links of these settings have no bandwidth bound; those of `plan_settings` have.
    """
    alone = [fixed_s * s + token_s * t for s, t in zip(figures["steps"], figures["tokens"], strict=True)]
    return max(statistics.median(alone) / figures["seconds"], figures["cpu_share"])


def _latencies(settings: Settings) -> tuple[int, ...]:
    return (0, 64) if settings.quick else LATENCIES_MS


def _network(profile: str, stages: int, latency_ms: int, wan: Wan, settings: Settings) -> SteadyNetwork:
    rows = rows_in_flight(_RATE, stages * (_latencies(settings)[-1] / 1e3 + _MICROBATCH / _RATE))
    # What a row waits for its next token, at whatever latency.
    trip_s = rows / _RATE
    return SteadyNetwork(
        _contestant(latency_ms),
        TestnetConfig(
            nodes=stages,
            latency_ms=latency_ms,
            wan=wan,
            stage_profile=profile,
            congestion=_CONGESTION if wan == "netns" else "",
        ),
        Rows(rows, _PROMPT, _NEW, _RATE),
        window_s=3 if settings.quick else 12,
        settle_s=0 if settings.quick else 3 * trip_s,
    )


def _contestant(latency_ms: int) -> str:
    return f"{latency_ms} ms"


def _ratios(journal: Journal) -> Iterator[Row]:
    for wan, stages, (latency, bound) in itertools.product(_WANS, STAGES, _BARS.items()):
        name = name_of(stages, wan)
        what = f"{name.removeprefix('a ')}: {latency} ms / 0 ms"
        ratios = journal.ratios(name, _contestant(latency), _contestant(0))
        yield Row.of(Requirement("a", what, ">=", bound, "x"), ratios)


def _bounds(journal: Journal) -> Iterator[Row]:
    for wan, stages, latency in itertools.product(_WANS, STAGES, LATENCIES_MS):
        name = name_of(stages, wan)
        found = journal.rounds(name, _contestant(latency)).values()
        shares = [share_of_bound(figures, _FIXED_MS / 1e3, _TOKEN_MS / 1e3) for figures in found]
        what = f"timed, {name.removeprefix('a ')}, {latency} ms: measured / bound"
        yield Row.of(Requirement("b", what, ">=", 0.97, "x"), shares)
