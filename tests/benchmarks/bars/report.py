"""The table and the JSON of a run. A missed bar says why, in words written after a profile: reasons.toml."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bars.rows import Row

__all__ = ["as_json", "as_markdown", "as_table", "load_reasons"]

_REASONS = Path(__file__).with_name("reasons.toml")
_BAR = r"\|"
_VERDICTS = {True: "met", False: "MISSED", None: "-"}


def load_reasons(path: Path = _REASONS) -> dict[str, str]:
    """By "bar what", as the rows are called."""
    tables: dict[str, dict[str, str]] = tomllib.loads(path.read_text())
    return {f"{bar} {what}": reason for bar, table in tables.items() for what, reason in table.items()}


def as_json(rows: Sequence[Row], reasons: dict[str, str], machine: dict[str, Any]) -> str:
    return json.dumps({"machine": machine, "bars": [row.as_json(_reason(row, reasons)) for row in rows]}, indent=1)


def as_table(rows: Sequence[Row], reasons: dict[str, str]) -> str:
    """One line a bar; medians with the range of their rounds, and below each missed one its reason."""
    width = max((len(row.requirement.what) for row in rows), default=4)
    lines = [f"{'':<3}{'what':<{width}}  {'measured':>10} {'range':>21} {'required':>10}  verdict"]
    for row in rows:
        asked = row.requirement
        bound = "" if asked.sense == "report" else f"{asked.sense} {asked.bound:g}"
        measured = "-" if row.median is None else f"{row.median:.4g}{asked.unit}"
        spread = f"{min(row.values):.4g} to {max(row.values):.4g}" if len(row.values) > 1 else ""
        line = f"{asked.bar:<3}{asked.what:<{width}}  {measured:>10} {spread:>21} {bound:>10}  {_VERDICTS[row.met]}"
        lines.append(line.rstrip())
        lines += [f"   {text}" for text in (row.note, _reason(row, reasons) if row.met is False else "") if text]
    return "\n".join(lines)


def as_markdown(rows: Sequence[Row], reasons: dict[str, str], tables: Mapping[str, str]) -> str:
    """A table for each bar, and below it the reasons of what is missed: the form of docs/benchmarks.md.

    `tables`: those of bars that have one of their own, by the bar's letter.
    """
    lines: list[str] = []
    for bar in dict.fromkeys(row.requirement.bar for row in rows):
        of_bar = [row for row in rows if row.requirement.bar == bar]
        lines += [f"Bar {bar}", "", *([tables[bar]] if bar in tables else _table(of_bar))]
        missed = [row for row in of_bar if row.met is False]
        lines += [
            "",
            *(f"- *{row.requirement.what}*: {_reason(row, reasons)}" for row in missed),
            *([""] if missed else []),
        ]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| | measured | range | rounds | required | notes |", "|---|---|---|---|---|---|"]
    for row in rows:
        asked = row.requirement
        measured = "not measured" if row.median is None else f"{row.median:.4g}{asked.unit}"
        measured = f"**{measured}**" if row.met is False else measured
        spread = f"{min(row.values):.4g} to {max(row.values):.4g}" if len(row.values) > 1 else ""
        bound = "" if asked.sense == "report" else f"{asked.sense} {asked.bound:g}"
        cells = (asked.what, measured, spread, str(len(row.values)), bound, row.note)
        lines.append(f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |")
    return lines


def _reason(row: Row, reasons: dict[str, str]) -> str:
    return reasons.get(f"{row.requirement.bar} {row.requirement.what}", "no reason is known yet")
