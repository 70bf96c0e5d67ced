"""What a running testnet does between two moments: tokens, the load of each stage, processor time of each process.

A head tells its counters together with its own clock, so a rate is exact although reports come once a second only.
Whether the ring was in its steady state meanwhile is for the caller to arrange; see `prompts.synthetic`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deserve_testnet.errors import TestnetError

if TYPE_CHECKING:
    from deserve_testnet.testnet import Testnet

__all__ = ["StageWindow", "Window", "measure_window", "window_between"]

_POLL_S = 0.1
_REPORT_DEADLINE_S = 15.0
_UTIME_FIELD, _STIME_FIELD = 14, 15
"""Of /proc/PID/stat, counted from 1 (proc(5))."""


@dataclass(frozen=True)
class StageWindow:
    """`seconds` by the stage's own clock, of which it computed `busy_s`, in `steps` steps."""

    node: str
    layers: tuple[int, int]
    seconds: float
    busy_s: float
    steps: int

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.seconds


@dataclass(frozen=True)
class Window:
    """`tokens` were generated and `prompt_tokens` taken in by all rings in about `seconds`; `tokens_per_s` is exact."""

    seconds: float
    tokens: int
    prompt_tokens: int
    tokens_per_s: float
    stages: tuple[StageWindow, ...]
    cpu_s: Mapping[str, float]
    """Processor time of each process by name over `cpu_seconds` of wall time; empty without /proc."""
    cpu_seconds: float
    rows_active: int
    """At the end: where it is small, the window reached into the drain."""

    @property
    def cores_busy(self) -> float:
        """Processor seconds per second of all processes together."""
        return sum(self.cpu_s.values()) / self.cpu_seconds


async def measure_window(net: Testnet, seconds: float) -> Window:
    """Measure the next `seconds`. Raises TestnetError where a ring ends meanwhile or its head is silent."""
    before, began_s, cpu_before = await _fresh_view(net), time.monotonic(), _cpu_s(net)
    await asyncio.sleep(seconds)
    after, ended_s, cpu_after = await _fresh_view(net), time.monotonic(), _cpu_s(net)
    cpu_s = {name: cpu_after[name] - spent for name, spent in cpu_before.items() if name in cpu_after}
    return window_between(before, after, cpu_s, ended_s - began_s)


def window_between(
    before: Mapping[str, Any], after: Mapping[str, Any], cpu_s: Mapping[str, float], cpu_seconds: float
) -> Window:
    """The window between two `GET /v1/network` objects. Raises TestnetError where their rings are not the same."""
    rings = _rings(before)
    if not rings or rings.keys() != _rings(after).keys():
        raise TestnetError("a ring began or ended while it was measured")
    spans, tokens, prompt_tokens, rows_active, rate = [], 0, 0, 0, 0.0
    stages: list[StageWindow] = []
    for key, late in _rings(after).items():
        early = rings[key]
        span_s = late["since_begin_s"] - early["since_begin_s"]
        if span_s <= 0:
            raise TestnetError(f"{key[0]} told nothing while it was measured")
        grown = late["completion_tokens"] - early["completion_tokens"]
        spans.append(span_s)
        tokens += grown
        rate += grown / span_s
        prompt_tokens += late["prompt_tokens"] - early["prompt_tokens"]
        rows_active += late["rows_active"]
        stages += [_stage(*pair) for pair in zip(early["stages"], late["stages"], strict=True)]
    seconds = sum(spans) / len(spans)
    return Window(seconds, tokens, prompt_tokens, rate, tuple(stages), dict(cpu_s), cpu_seconds, rows_active)


def _rings(view: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
    return {(ring["ring"], ring["epoch"]): ring for ring in view["rings"] if ring["state"] == "serving"}


def _stage(early: Mapping[str, Any], late: Mapping[str, Any]) -> StageWindow:
    first, last = late["layers"]
    return StageWindow(
        late["node"],
        (first, last),
        max(1e-9, late["since_begin_s"] - early["since_begin_s"]),
        late["busy_s"] - early["busy_s"],
        late["steps"] - early["steps"],
    )


async def _fresh_view(net: Testnet) -> dict[str, Any]:
    """A view that is newer than this call for every stage of every ring."""
    known = _clocks(await net.view.read())
    try:
        async with asyncio.timeout(_REPORT_DEADLINE_S):
            while True:
                view = await net.view.read()
                clocks = _clocks(view)
                if clocks and all(clock > known.get(stage, 0.0) for stage, clock in clocks.items()):
                    return view
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TestnetError(f"no report from every stage within {_REPORT_DEADLINE_S:.0f} s") from None


def _clocks(view: Mapping[str, Any]) -> dict[tuple[str, int, str], float]:
    return {
        (*key, stage["node"]): stage["since_begin_s"] for key, ring in _rings(view).items() for stage in ring["stages"]
    }


def _cpu_s(net: Testnet) -> dict[str, float]:
    """Processor seconds of every process of the network so far; none for those that are gone."""
    processes = [net.coordinator, *net.nodes, *([] if net.internet is None else [net.internet.process])]
    spent = {}
    for process in processes:
        try:
            # The second field, the command's name, may hold spaces; it ends with the last parenthesis.
            values = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks = int(values[_UTIME_FIELD - 3]) + int(values[_STIME_FIELD - 3])
        spent[process.name] = ticks / os.sysconf("SC_CLK_TCK")
    return spent
