"""What a group of bars offers, and the settings that hold for all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bars.journal import Journal
from bars.rounds import Experiment
from bars.rows import Row

__all__ = ["Group", "Settings", "say_skipped"]


@dataclass(frozen=True)
class Settings:
    """`quick` shortens windows and rows until every path is taken and no figure means anything."""

    rounds: int
    quick: bool
    scratch: Path
    """A directory for files of the run."""
    only: str = ""
    """A part of the names of the experiments to run; empty runs all."""


def say_skipped(what: str, why: str) -> None:
    """Name on stderr what is not run, and what it lacks."""
    print(f"skipped: {what}: {why}", file=sys.stderr, flush=True)


class Group(Protocol):
    """A module of this package."""

    __name__: str

    def experiments(self, settings: Settings) -> Sequence[Experiment]:
        """What has to be run. What this machine cannot run is left out and named by `say_skipped`."""

    def rows(self, journal: Journal, settings: Settings) -> Sequence[Row]:
        """What the journal says about this group's bars, measured or not."""
