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
from detect.stages import HONEST, STAGES, WITH_BARS, AuditedStage
from detect.table import CHEATS, COST, HONEST_ROWS, lines, markdown, name_of

from deserve_process.cores import usable_cores

log = logging.getLogger("detection")

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True)
class Size:
    """Rows of a round and their tokens; rounds of one cheat at the stages with bars and at the others, and of honest
    rows at each of six."""

    calibration_rows: int
    cheat_tokens: int
    cheat_rows: int
    cheat_rounds: int
    other_rounds: int
    honest_tokens: int
    honest_rows: int
    honest_rounds: int
    cost_tokens: int


FULL = Size(192, 64, 100, 10, 3, 32, 210, 24, 128)
QUICK = Size(24, 24, 3, 1, 1, 12, 3, 1, 24)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rows of all, to see that everything works")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only experiments whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON as well")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of docs/ledger.md")
    parser.add_argument("--no-run", action="store_true", help="only print what the journal has")
    return parser.parse_args()


def run(size: Size, build: Path, journal: Journal, only: str) -> None:
    """Whatever is missing, round by round, so that every experiment has some rows early."""

    def measure(experiment: str, name: str, number: int, work: Callable[[], dict[str, Any]]) -> None:
        if only in f"{experiment} {name}" and not journal.has(experiment, name, number):
            log.info("%s, %s, round %d", experiment, name, number)
            journal.add(Measurement(experiment, name, number, work()))

    def cheat_round(stage: AuditedStage, cheat: str, number: int) -> Callable[[], dict[str, Any]]:
        return lambda: lab.cheating(stage, cheat, size.cheat_rows, number)

    def honest_round(stage: AuditedStage, number: int) -> Callable[[], dict[str, Any]]:
        return lambda: honest_lab.honest(stage, size.honest_rows, number)

    lab = Lab(build, size.cheat_tokens, size.calibration_rows)
    honest_lab = Lab(build, size.honest_tokens, size.calibration_rows)
    for stage in WITH_BARS:
        measure(COST, stage.name, 0, lambda stage=stage: lab.cost(stage, 32, size.cost_tokens))  # type: ignore[misc]
    for number in range(max(size.cheat_rounds, size.honest_rounds)):
        for stage, cheat in experiments(STAGES):
            if number < (size.cheat_rounds if stage in WITH_BARS else size.other_rounds):
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
        run(size, build, journal, chosen.only)
    found = list(lines(journal))
    table = markdown(found)
    print(table)
    if chosen.markdown:
        chosen.markdown.write_text(table + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(line) for line in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
