"""Bars f, g and the real half of b: rings of processes that compute, at 0 and 256 ms, beside a ring of one process.

All contestants hold the same rows, as many as 256 ms ask for, and are measured in their steady state. The stages share
the machine's cores with each other and with the coordinator, so the ring's bound is the processor time of them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bars.group import Settings
from bars.journal import Journal
from bars.networks import MOST_ROWS, ROWS_FACTOR, SteadyNetwork
from bars.rounds import Contestant, Experiment
from bars.rows import Requirement, Row
from bars.steady import Rows
from bars.workload import MODELS, make_bench_model
from deserve_testnet.config import TestnetConfig

__all__ = ["LATENCIES_MS", "experiments", "name_of", "rows"]

STAGES = 4
LATENCIES_MS = (0, 256)
_ONE = "one process"
_PROMPT, _NEW = 32, 64


@dataclass(frozen=True)
class _Size:
    """`tokens_per_s` is what four processes reach on two cores: rows in flight follow from it."""

    tokens_per_s: float
    memory: str


_SIZES = {"bench": _Size(1500.0, "2GiB"), "SmolLM2": _Size(400.0, "2GiB")}


def experiments(settings: Settings) -> list[Experiment]:
    make_bench_model()
    return [Experiment(name_of(model.name), _contestants(model.name, settings), settings.rounds) for model in MODELS]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for model in MODELS:
        name, near, far = name_of(model.name), _ring(0), _ring(256)
        over = Requirement("f", f"{model.name}: 256 ms / 0 ms", ">=", 0.95, "x")
        found.append(Row.of(over, journal.ratios(name, far, near)))
        processes = Requirement("g", f"{model.name}: {STAGES} processes / one process", ">=", 0.92, "x")
        found.append(Row.of(processes, journal.ratios(name, near, _ONE)))
        for latency in LATENCIES_MS:
            share = Requirement("b", f"{model.name}, {latency} ms: processor time / cores", ">=", 0.95, "x")
            found.append(Row.of(share, journal.values(name, _ring(latency), "cpu_share")))
        for contestant, bar in ((_ONE, "g"), (near, "f"), (far, "f")):
            rate = Requirement(bar, f"{model.name}: {contestant}", "report", unit=" tok/s")
            found.append(Row.of(rate, journal.values(name, contestant, "tokens_per_s")))
    return found


def name_of(model: str) -> str:
    return f"f {model}"


def _ring(latency_ms: int) -> str:
    return f"{STAGES} processes, {latency_ms} ms"


def _contestants(model: str, settings: Settings) -> tuple[Contestant, ...]:
    source = next(known.source for known in MODELS if known.name == model)
    size = _SIZES[model]
    round_trip_s = STAGES * LATENCIES_MS[-1] / 1e3 + 0.3
    in_flight = min(MOST_ROWS, math.ceil(ROWS_FACTOR * size.tokens_per_s * round_trip_s))
    workload = Rows(64 if settings.quick else in_flight, _PROMPT, _NEW, 2 * size.tokens_per_s)

    def network(name: str, nodes: int, latency_ms: float) -> Contestant:
        config = TestnetConfig(model=source, nodes=nodes, latency_ms=latency_ms, memory=size.memory)
        return SteadyNetwork(name, config, workload, window_s=3 if settings.quick else 20, settle_s=5).contestant()

    rings = (network(_ring(latency), STAGES, latency) for latency in LATENCIES_MS)
    return (network(_ONE, 1, 0.0), *rings)
