"""Bar l: what a step costs the head's event loop, and whether its memory stays (`tests/benchmarks/head.py`)."""

from __future__ import annotations

from bars.group import Settings
from bars.journal import Journal
from bars.rounds import Experiment
from bars.rows import Requirement, Row
from bars.scripts import script

__all__ = ["experiments", "rows"]

_EXPERIMENT, _HEAD = "l", "head"
_MICROBATCHES, _ROWS, _STEPS = 64, 64, 1000
_FLAT_BYTES = 4e6
"""What an allocator may keep in a thousand steps; one object kept a row and step would be a hundred times that."""


def experiments(settings: Settings) -> list[Experiment]:
    sizes = (4, 8, 50) if settings.quick else (_MICROBATCHES, _ROWS, _STEPS)
    words = [word for flag, size in zip(("microbatches", "rows", "steps"), sizes, strict=True) for word in (flag, size)]
    arguments = [f"--{word}" if isinstance(word, str) else str(word) for word in words]
    return [Experiment(_EXPERIMENT, (script(_HEAD, "head.py", [*arguments, "--json"]),), settings.rounds)]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    of = f"{_MICROBATCHES} microbatches of {_ROWS} rows"
    return [
        Row.of(
            Requirement("l", f"{of}: a step on the head's event loop", "<=", 2.0, " ms"),
            journal.values(_EXPERIMENT, _HEAD, "ms_per_step"),
        ),
        Row.of(
            Requirement("l", f"{of}: memory grown over {_STEPS} steps", "<=", _FLAT_BYTES / 1e6, " MB"),
            [grown / 1e6 for grown in journal.values(_EXPERIMENT, _HEAD, "grown_bytes")],
        ),
    ]
