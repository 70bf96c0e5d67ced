"""A testnet as a contestant: started with a stage profile or a model, measured in its steady state."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bars.ring_status import RingStatus
from bars.rounds import Contestant, Measure
from bars.steady import Rows, measure_steady
from deserve_models.inspection import DTYPE_SIZES
from deserve_node.paper_rings import stage_figures
from deserve_node.timed.profile import load_profile
from deserve_plan.figures import LinkFigures, RingFigures, Workload
from deserve_plan.paper import PaperNode
from deserve_plan.solve import solve
from deserve_testnet.config import TestnetConfig
from deserve_testnet.profiles import profile_file
from deserve_testnet.testnet import Testnet

__all__ = ["MOST_ROWS", "SteadyNetwork", "rows_held", "rows_in_flight", "write_links", "write_profile"]

ROWS_FACTOR = 1.3
"""Rows in flight over rate times round trip, as the bars ask for."""
MOST_ROWS = 4096
"""Our own bound; a node's --max-rows takes up to 16,384."""


def rows_in_flight(tokens_per_s: float, round_trip_s: float) -> int:
    """Rows that keep a ring of this rate busy, with a margin; no more than MOST_ROWS."""
    return min(MOST_ROWS, math.ceil(ROWS_FACTOR * tokens_per_s * round_trip_s))


def rows_held(config: TestnetConfig, rows: Rows) -> int:
    """How many of `rows` a timed ring runs at once, on average, under the plan that its head will make."""
    assert config.stage_profile is not None
    profile = load_profile(profile_file(config.stage_profile))
    link = LinkFigures(config.latency_ms / 1e3, bytes_per_s=config.mbit * 125_000)
    figures = RingFigures(
        tuple(
            stage_figures(profile.of(stage), PaperNode(str(stage)), is_tail=stage == config.nodes - 1)
            for stage in range(config.nodes)
        ),
        (link,) * config.nodes,
        profile.common.hidden,
        DTYPE_SIZES[profile.common.dtype],
    )
    found = solve(figures, Workload(rows.prompt_tokens, rows.new_tokens), max_rows=rows.in_flight).predicted
    assert found is not None
    return round(found.tokens_per_s * found.period_s)


def write_profile(path: Path, stage: Mapping[str, Any], stages: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write a stage profile (`deserve_node.timed.profile`) and return its path, as --stage-profile takes it."""
    lines = ["[stage]", *_assignments(stage)]
    for own in stages:
        lines += ["", "[[stages]]", *_assignments(own)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_links(path: Path, links: Sequence[Mapping[str, float]]) -> Path:
    """Write what differs of each stage's link to the next (`deserve_coordinator.link_shapes`) and return the path."""
    lines = []
    for stage, own in enumerate(links):
        lines += ["[[link]]", f"from = {stage}", f"to = {(stage + 1) % len(links)}", *_assignments(own), ""]
    path.write_text("\n".join(lines))
    return path


@dataclass(frozen=True)
class SteadyNetwork:
    """`config.max_rows` is set to the rows in flight; `during` watches each window, see `measure_steady`."""

    name: str
    config: TestnetConfig
    rows: Rows
    window_s: float
    settle_s: float
    fill_deadline_s: float = 600.0
    during: Callable[[RingStatus, float], Awaitable[dict[str, Any]]] | None = None

    def contestant(self) -> Contestant:
        return Contestant(self.name, self._open)

    def _open(self) -> AbstractAsyncContextManager[Measure]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Measure]:
        config = replace(self.config, max_rows=max(16, self.rows.in_flight))

        async def measure() -> dict[str, Any]:
            window = await measure_steady(
                net,
                self.rows,
                window_s=self.window_s,
                settle_s=self.settle_s,
                fill_deadline_s=self.fill_deadline_s,
                during=self.during,
            )
            return window.figures()

        print(f"{self.name}: starting {config.nodes} nodes", file=sys.stderr, flush=True)
        async with Testnet(config) as net:
            yield measure


def _assignments(table: Mapping[str, Any]) -> list[str]:
    return [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in table.items()]
