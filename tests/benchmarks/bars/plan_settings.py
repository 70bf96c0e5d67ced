"""Bar c: what the head's plan predicts against what its ring then does, over settings that differ in every measure.

Where bandwidth binds, the same windows say for bar b how much of it was used.

Nodes, latency, bandwidth that binds and that does not, memory that holds all rows, that swaps and that runs out, stages
and links that differ. Timed stages: each setting is what its profile says, so one round tells as much as five.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bars.group import Settings
from bars.journal import Journal
from bars.networks import SteadyNetwork, rows_held, write_links, write_profile
from bars.rounds import Experiment
from bars.rows import Requirement, Row
from bars.steady import Rows
from deserve_testnet.config import TestnetConfig

__all__ = ["SETTINGS", "PlanSetting", "experiments", "rows"]

_EXPERIMENT = "c"
_STAGE: Mapping[str, Any] = {
    "fixed_ms": 60.0,
    "token_ms": 0.25,
    "hidden": 512,
    "dtype": "bfloat16",
    "page_tokens": 8,
    "page_bytes": 65_536,
    "device_pages": 20_000,
    "copy_in_gb_per_s": 4.0,
    "copy_out_gb_per_s": 4.0,
}


@dataclass(frozen=True)
class PlanSetting:
    """`stage` and `stages` change the profile of all stages and of each, `links` the link from each to the next."""

    name: str
    nodes: int
    latency_ms: float = 0.0
    mbit: float = 0.0
    rows: int = 256
    prompt: int = 16
    new: int = 48
    stage: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()
    links: tuple[Mapping[str, float], ...] = ()

    @property
    def memory_binds(self) -> bool:
        """Then how old rows are matters, and the first ones that the ring holds are made to be in their middle."""
        return any("device_pages" in own for own in (self.stage, *self.stages))


_SWAPPED = {"device_pages": 400, "host_pages": 20_000}
_SLOW_COPIES = {"copy_in_gb_per_s": 0.1, "copy_out_gb_per_s": 0.1}

SETTINGS = (
    PlanSetting("2 nodes", 2),
    PlanSetting("2 nodes, 128 ms", 2, 128, rows=512),
    PlanSetting("2 nodes, 5 Mbit/s", 2, 16, 5),
    PlanSetting("2 nodes, 64 ms, memory for 60 rows", 2, 64, stage={"device_pages": 360}),
    PlanSetting("4 nodes, 32 ms", 4, 32),
    PlanSetting("4 nodes, 256 ms", 4, 256, rows=1024),
    PlanSetting("4 nodes, 64 ms, 100 Mbit/s", 4, 64, 100, rows=512),
    PlanSetting("4 nodes, 64 ms, 5 Mbit/s", 4, 64, 5, rows=512),
    PlanSetting("4 nodes, 64 ms, swapped", 4, 64, rows=512, stage=_SWAPPED),
    PlanSetting("4 nodes, 64 ms, swapped, slow copies", 4, 64, rows=512, stage={**_SWAPPED, **_SLOW_COPIES}),
    PlanSetting("8 nodes, 16 ms", 8, 16, rows=512),
    PlanSetting("8 nodes, 128 ms, swapped", 8, 128, rows=1536, stage=_SWAPPED),
    PlanSetting(
        "4 nodes, 64 ms, unequal stages",
        4,
        64,
        rows=512,
        stages=({}, {"fixed_ms": 90.0}, {"fixed_ms": 40.0, "token_ms": 0.6}, {"token_ms": 0.1}),
    ),
    PlanSetting(
        "4 nodes, unequal memory and copies",
        4,
        32,
        rows=512,
        stage=_SWAPPED,
        stages=({"device_pages": 2_000}, {}, {"device_pages": 300, **_SLOW_COPIES}, {}),
    ),
    PlanSetting(
        "4 nodes, unequal links",
        4,
        rows=768,
        links=({"latency_ms": 10}, {"latency_ms": 200}, {"latency_ms": 60, "mbit": 10}, {"latency_ms": 120}),
    ),
)


def experiments(settings: Settings) -> list[Experiment]:
    chosen = SETTINGS[:1] if settings.quick else SETTINGS
    contestants = tuple(_network(setting, settings).contestant() for setting in chosen)
    return [Experiment(_EXPERIMENT, contestants, rounds=1, kept=False)]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for setting in SETTINGS:
        errors = []
        note = ""
        for figures in journal.rounds(_EXPERIMENT, setting.name).values():
            predicted, measured = figures["predicted_tokens_per_s"], figures["tokens_per_s"]
            errors.append(abs(predicted - measured) / measured)
            note = (
                f"predicted {predicted:.0f}, measured {measured:.0f} tok/s; bound: {figures['plan'].get('bound', '')}"
            )
        found.append(Row.of(Requirement("c", f"{setting.name}: |error|", "<=", 0.05), errors, note))
    measured = [row.median for row in found if row.median is not None]
    if measured:
        within = sum(error <= 0.05 for error in measured)
        what = f"median error over {len(measured)} settings, {within} of them within 5 %"
        found.append(Row.of(Requirement("c", what, "report"), [statistics.median(measured)]))
    return [*found, *_links_in_use(journal)]


def _links_in_use(journal: Journal) -> Iterator[Row]:
    """Bar b where a link is the bound: what it sent over what it could have."""
    for setting in SETTINGS:
        windows = journal.rounds(_EXPERIMENT, setting.name).values()
        bound = [figures for figures in windows if "uplink" in figures["plan"].get("bound", "")]
        if setting.mbit and bound:
            shares = [max(of["bytes_sent"][:-1]) / of["seconds"] / (setting.mbit * 125_000) for of in bound]
            yield Row.of(Requirement("b", f"timed, {setting.name}: measured / bound", ">=", 0.97, "x"), shares)


def _network(setting: PlanSetting, settings: Settings) -> SteadyNetwork:
    stage = {**_STAGE, **setting.stage}
    file = setting.name.replace("/", " per ")
    profile = write_profile(settings.scratch / f"{file}.toml", stage, setting.stages)
    config = TestnetConfig(
        nodes=setting.nodes,
        latency_ms=setting.latency_ms,
        mbit=setting.mbit,
        stage_profile=profile,
        links=write_links(settings.scratch / f"{file} links.toml", setting.links) if setting.links else None,
    )
    # An upper bound of the rate: all rows in one microbatch, back to back.
    most = setting.rows / (stage["fixed_ms"] + stage["token_ms"] * setting.rows) * 1e3
    rows = Rows(setting.rows, setting.prompt, setting.new, most)
    if setting.memory_binds:
        rows = dataclasses.replace(rows, aged=rows_held(config, rows))
    return SteadyNetwork(
        setting.name,
        config,
        rows,
        window_s=3 if settings.quick else 20,
        settle_s=0 if settings.quick else 25 if setting.memory_binds else 10,
    )
