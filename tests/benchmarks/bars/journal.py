"""What was measured, one JSON object a line, written the moment it is known: an interrupted run goes on where it was.

A line is one contestant in one round of one experiment; `commit` is what `git describe` said of the checkout that
measured it ("" where there is no git), `at` when it was written (ISO 8601, UTC). Lines of before may lack these two.
Lines are never changed; delete the file to measure anew.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Figures", "Journal", "Measurement"]

Figures = Mapping[str, Any]

_DESCRIBE = ("git", "--no-optional-locks", "describe", "--always", "--dirty")
_DESCRIBE_S = 10.0


@dataclass(frozen=True)
class Measurement:
    experiment: str
    contestant: str
    round: int
    figures: Figures
    """By name, in the units that the names end with: numbers, and lists of numbers for curves."""


class Journal:
    """The measurements in `path`, those of earlier runs included."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[tuple[str, str, int], Figures] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    found = json.loads(line)
                except json.JSONDecodeError:
                    # A run that was killed while it wrote leaves half a line behind.
                    continue
                self._take(Measurement(found["experiment"], found["contestant"], found["round"], found["figures"]))

    def add(self, measurement: Measurement) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            line = {**asdict(measurement), "commit": _commit(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
            file.write(json.dumps(line).encode() + b"\n")
        self._take(measurement)

    def has(self, experiment: str, contestant: str, number: int) -> bool:
        return (experiment, contestant, number) in self._found

    def rounds(self, experiment: str, contestant: str) -> dict[int, Figures]:
        """The figures of a contestant by round."""
        return {
            number: figures
            for (of, name, number), figures in sorted(self._found.items(), key=lambda item: item[0][2])
            if (of, name) == (experiment, contestant)
        }

    def values(self, experiment: str, contestant: str, figure: str) -> list[float]:
        """One figure of a contestant in every round that has it."""
        return list(self.by_round(experiment, contestant, figure).values())

    def by_round(self, experiment: str, contestant: str, figure: str) -> dict[int, float]:
        """One figure of a contestant, by the rounds that have it."""
        found = self.rounds(experiment, contestant)
        return {number: figures[figure] for number, figures in found.items() if figure in figures}

    def ratios(self, experiment: str, above: str, below: str, figure: str = "tokens_per_s") -> list[float]:
        """Of two contestants, within each round that has both: a machine whose speed drifts does not decide."""
        over, under = self.rounds(experiment, above), self.rounds(experiment, below)
        return [over[number][figure] / under[number][figure] for number in over if number in under]

    def _take(self, measurement: Measurement) -> None:
        self._found[measurement.experiment, measurement.contestant, measurement.round] = measurement.figures


def _commit() -> str:
    try:
        described = subprocess.run(
            _DESCRIBE, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=_DESCRIBE_S
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return described.stdout.strip() if described.returncode == 0 else ""
