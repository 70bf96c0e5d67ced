"""What the journal has, as rows of a table: detection with its interval, rows needed, false alarms, cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bars.journal import Journal
from intervals import at_least, at_most

from detect.measure import experiments
from detect.stages import HONEST, STAGES, WITH_BARS, AuditedStage

__all__ = ["CHEATS", "COST", "HONEST_ROWS", "Line", "lines", "markdown"]

CHEATS, HONEST_ROWS, COST = "cheats", "honest", "cost"
WITHIN_TOKENS = 1000
CONFIDENT = 0.999
AUDITED = 0.02
MOST_COST = 0.05
MOST_FALSE = 1e-4


@dataclass(frozen=True)
class Line:
    """One figure against its bar; `interval` is one-sided, at 95 %. `required` None: shown only."""

    stage: str
    what: str
    measured: float
    interval: float
    required: float | None
    passed: bool
    notes: str


def name_of(stage: AuditedStage, cheat: str) -> str:
    return f"{stage.name}: {cheat}"


def lines(journal: Journal) -> Iterator[Line]:
    """What was measured so far."""
    for stage, cheat in experiments(STAGES):
        if rounds := list(journal.rounds(CHEATS, name_of(stage, cheat)).values()):
            yield _detection(stage, cheat, rounds)
    honest = [figures for stage in HONEST for figures in journal.rounds(HONEST_ROWS, stage.name).values()]
    if honest:
        rows, failed = _sum(honest, "rows"), _sum(honest, "failed")
        nearest = max(figures["largest_of_bound"] for figures in honest)
        yield Line(
            "all", "false alarms of honest audits", failed / rows, at_most(failed, rows), MOST_FALSE,
            at_most(failed, rows) <= MOST_FALSE, f"{failed} of {rows}; nearest to its bound: {nearest:.0%}",
        )  # fmt: skip
    for stage in STAGES:
        for figures in journal.rounds(COST, stage.name).values():
            share = AUDITED * figures["audit_s"] / figures["served_s"]
            loading = f"loading the layers, once a run of audits: {figures['load_s']:.1f} s"
            yield Line(
                stage.name, "audits of 2 % of rows, of compute", share, share, MOST_COST, share <= MOST_COST, loading
            )


def markdown(found: Sequence[Line]) -> str:
    """The table of docs/ledger.md."""
    head = "| stage | what | measured | 95 % interval from/to | bar | passed | notes |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {line.stage} | {line.what} | {line.measured:.4%} | {line.interval:.4%} | "
        f"{'' if line.required is None else f'{line.required:.4g}'} | {'yes' if line.passed else 'no'} | {line.notes} |"
        for line in found
    )


def _detection(stage: AuditedStage, cheat: str, rounds: Sequence[Any]) -> Line:
    rows, whole, alone = _sum(rounds, "rows"), _sum(rounds, "caught_whole"), _sum(rounds, "caught")
    rate = whole / rows
    needed = "never" if not whole else "1" if whole == rows else str(_rows_until(rate))
    notes = f"{whole} of {rows} rows; {CONFIDENT:.1%} after {needed}"
    if not stage.is_tail:
        notes += f"; by fingerprints alone {alone / rows:.1%}"
    required, measured = CONFIDENT, rate
    if cheat == "8-bit":
        tokens = rounds[0]["tokens"]
        required, measured = 0.99, 1 - (1 - rate) ** (WITHIN_TOKENS / tokens)
        notes += f"; within {WITHIN_TOKENS} tokens {measured:.1%}"
    bar = required if stage in WITH_BARS else None
    return Line(stage.name, cheat, measured, at_least(whole, rows), bar, measured >= required, notes)


def _rows_until(rate: float) -> int:
    return math.ceil(math.log(1 - CONFIDENT) / math.log1p(-rate))


def _sum(rounds: Sequence[Any], figure: str) -> int:
    return sum(figures[figure] for figures in rounds)
