"""Bar h on timed stages: what is left of it where copying takes no processor time.

On a machine without an accelerator the cores that compute also copy, which no schedule hides. A timed stage only waits
for its copies, as a GPU does for its copy engines, and everything else is real.
"""

from __future__ import annotations

from bars.group import Settings
from bars.journal import Journal
from bars.networks import SteadyNetwork, rows_in_flight, write_profile
from bars.rounds import Experiment
from bars.rows import Requirement, Row
from bars.steady import Rows
from deserve_testnet.config import TestnetConfig

__all__ = ["experiments", "rows"]

_NAME = "h timed"
_ALL, _EIGHTH = "all on the device", "an eighth on the device"
_STAGES, _LATENCY_MS = 4, 64
_PROMPT, _NEW = 32, 128
_PAGE_TOKENS = 16
_PROFILE = {
    "fixed_ms": 2.0,
    "token_ms": 1.5,
    "hidden": 512,
    "dtype": "bfloat16",
    "page_tokens": _PAGE_TOKENS,
    "page_bytes": 327_680,
    "copy_in_gb_per_s": 4.0,
    "copy_out_gb_per_s": 4.0,
}
_RATE = 64 / (2.0 + 1.5 * 64 * (1 + _PROMPT / _NEW)) * 1e3
_ROWS = rows_in_flight(_RATE, _STAGES * (_LATENCY_MS / 1e3 + 64 / _RATE))
_PAGES = _ROWS * (_PROMPT + _NEW // 2 + _PAGE_TOKENS // 2) // _PAGE_TOKENS
"""That all rows in flight need."""


def experiments(settings: Settings) -> list[Experiment]:
    networks = (
        _network(_ALL, {"device_pages": 2 * _PAGES}, settings),
        _network(_EIGHTH, {"device_pages": _PAGES // 8, "host_pages": 2 * _PAGES}, settings),
    )
    return [Experiment(_NAME, tuple(network.contestant() for network in networks), settings.rounds)]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    over = Requirement("h", "timed stages: an eighth of KV on the device / all", ">=", 0.95, "x")
    return [
        Row.of(over, journal.ratios(_NAME, _EIGHTH, _ALL)),
        *(
            Row.of(
                Requirement("h", f"timed stages: {contestant}", "report", unit=" tok/s"),
                journal.values(_NAME, contestant, "tokens_per_s"),
            )
            for contestant in (_ALL, _EIGHTH)
        ),
    ]


def _network(name: str, memory: dict[str, int], settings: Settings) -> SteadyNetwork:
    profile = write_profile(settings.scratch / f"{name.replace(' ', '-')}.toml", {**_PROFILE, **memory})
    return SteadyNetwork(
        name,
        TestnetConfig(nodes=_STAGES, latency_ms=_LATENCY_MS, stage_profile=profile),
        Rows(_ROWS, _PROMPT, _NEW, _RATE),
        window_s=3 if settings.quick else 20,
        settle_s=0 if settings.quick else 5,
    )
