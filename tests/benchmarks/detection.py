"""How surely an audit of one row at one stage catches each cheat, how rarely it accuses an honest node, what it costs.

    python tests/benchmarks/detection.py [--quick] [--only TEXT] [--json FILE] [--markdown FILE] [--no-run]

What is measured goes to the journal at once, and the same command goes on where it was interrupted. Tolerances are
calibrated first and kept beside the journal.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))

import torch
from bars.journal import Journal, Measurement
from detect.measure import Lab, experiments
from detect.stages import HONEST, STAGES, AuditedStage
from detect.table import CHEATS, COST, HONEST_ROWS, lines, markdown, name_of

from deserve_process.cores import usable_cores

log = logging.getLogger("detection")

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True)
class Size:
    """Rows of a round, and rounds of one cheat at one stage and of honest rows at one stage."""

    tokens: int
    calibration_rows: int
    cheat_rows: int
    cheat_rounds: int
    honest_rows: int
    honest_rounds: int


FULL = Size(tokens=64, calibration_rows=192, cheat_rows=100, cheat_rounds=10, honest_rows=210, honest_rounds=24)
QUICK = Size(tokens=32, calibration_rows=24, cheat_rows=4, cheat_rounds=1, honest_rows=4, honest_rounds=1)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rows of all, to see that everything works")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only experiments whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON as well")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of docs/ledger.md")
    parser.add_argument("--no-run", action="store_true", help="only print what the journal has")
    return parser.parse_args()


def run(size: Size, lab: Lab, journal: Journal, only: str) -> None:
    """Whatever is missing, round by round, so that every experiment has some rows early."""

    def measure(experiment: str, name: str, number: int, work: Callable[[], dict[str, Any]]) -> None:
        if only in f"{experiment} {name}" and not journal.has(experiment, name, number):
            log.info("%s, %s, round %d", experiment, name, number)
            journal.add(Measurement(experiment, name, number, work()))

    def cheat_round(stage: AuditedStage, cheat: str, number: int) -> Callable[[], dict[str, Any]]:
        return lambda: lab.cheating(stage, cheat, size.cheat_rows, number)

    def honest_round(stage: AuditedStage, number: int) -> Callable[[], dict[str, Any]]:
        return lambda: lab.honest(stage, size.honest_rows, number)

    for stage in STAGES[:2]:
        measure(COST, stage.name, 0, lambda stage=stage: lab.cost(stage, 32))  # type: ignore[misc]
    for number in range(max(size.cheat_rounds, size.honest_rounds)):
        if number < size.cheat_rounds:
            for stage, cheat in experiments(STAGES):
                measure(CHEATS, name_of(stage, cheat), number, cheat_round(stage, cheat, number))
        if number < size.honest_rounds:
            for stage in HONEST:
                measure(HONEST_ROWS, stage.name, number, honest_round(stage, number))


def main() -> None:
    chosen = options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("deserve_node").setLevel(logging.WARNING)
    torch.set_num_threads(usable_cores())
    size, name = (QUICK, "detection-quick") if chosen.quick else (FULL, "detection")
    build = BUILD / name
    build.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{name}.jsonl"
    if chosen.quick and not chosen.no_run:
        path.unlink(missing_ok=True)
    journal = Journal(path)
    if not chosen.no_run:
        run(size, Lab(build, size.tokens, size.calibration_rows), journal, chosen.only)
    found = list(lines(journal))
    table = markdown(found)
    print(table)
    if chosen.markdown:
        chosen.markdown.write_text(table + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(line) for line in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
