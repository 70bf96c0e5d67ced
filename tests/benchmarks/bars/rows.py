"""A line of the table: what a bar asks for, what was measured, and whether that meets it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Requirement", "Row"]


@dataclass(frozen=True)
class Requirement:
    """`bar` is the letter of the list in docs/benchmarks.md; "report" asks for a figure and sets no bound."""

    bar: str
    what: str
    sense: Literal[">=", "<=", "report"]
    bound: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Row:
    """Median and range of one figure over the rounds; no values: nothing was measured."""

    requirement: Requirement
    values: tuple[float, ...]
    note: str = ""

    @classmethod
    def of(cls, requirement: Requirement, values: Sequence[float], note: str = "") -> Row:
        return cls(requirement, tuple(values), note)

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        """None where nothing was asked for or nothing was measured."""
        if self.median is None or self.requirement.sense == "report":
            return None
        bound = self.requirement.bound
        return self.median >= bound if self.requirement.sense == ">=" else self.median <= bound

    def as_json(self, reason: str) -> dict[str, Any]:
        asked = self.requirement
        return {
            "bar": asked.bar,
            "what": asked.what,
            "unit": asked.unit,
            "measured": self.median,
            "low": min(self.values, default=None),
            "high": max(self.values, default=None),
            "rounds": len(self.values),
            "required": None if asked.sense == "report" else f"{asked.sense} {asked.bound:g}",
            "met": self.met,
            "reason": reason if self.met is False else "",
            "note": self.note,
        }
