"""Every bar of docs/benchmarks.md: what the network's latency costs, what the planner predicts, how fast a node is.

    python tests/benchmarks/latency.py [--bars a,b,i] [--rounds 5] [--json FILE] [--plot FILE] [--quick]

Contestants run in turn within a round, ratios are taken within a round, and the table shows medians with their ranges.
What is measured goes to the journal at once, and the same command goes on where it was interrupted. An experiment that
fails is named at the end, and the others run all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bars import report, rounds, setting_of_deserve
from bars.catalogue import LETTERS, groups
from bars.group import Settings
from bars.journal import Journal

from deserve_process.cores import usable_cores

log = logging.getLogger("latency")

ROUNDS_HELP = "of all but c, d and a in namespaces, which are measured once"
BUILD = Path(__file__).parents[2] / "build"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", default=",".join(LETTERS), help="letters, with commas; default: all")
    parser.add_argument("--rounds", type=int, default=5, help=ROUNDS_HELP)
    parser.add_argument("--only", default="", metavar="TEXT", help="run only experiments whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON as well")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables of docs/benchmarks.md")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves, PNG; needs matplotlib")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="default: build/latency.jsonl or -quick.jsonl")
    parser.add_argument("--quick", action="store_true", help="one short round of all, to see that everything works")
    parser.add_argument("--no-run", action="store_true", help="only print, and draw, what the journal has")
    parsed = parser.parse_args()
    letters = [letter for letter in parsed.bars.replace(",", " ").split() if letter]
    if unknown := [letter for letter in letters if letter not in LETTERS]:
        parser.error(f"--bars: {', '.join(unknown)}: there are {', '.join(LETTERS)}")
    if parsed.rounds < 1:
        parser.error("--rounds: at least 1")
    if not letters:
        parser.error("--bars: names none")
    for flag in ("json", "markdown", "plot", "journal"):
        path: Path | None = getattr(parsed, flag)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            parser.error(f"--{flag}: {path}: no file can be there")
    parsed.bars = letters
    return parsed


def machine() -> dict[str, Any]:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": usable_cores(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


async def measure(settings: Settings, letters: list[str], journal: Journal) -> list[str]:
    """Run what is missing; the names of experiments that failed, and of groups that could not say theirs."""
    failed = []
    found = False
    for group in groups(letters):
        try:
            experiments = group.experiments(settings)
        except Exception:
            # The edge of a group: a model that cannot be made is no reason to measure nothing else.
            log.exception("%s failed before it began", group.__name__)
            failed.append(group.__name__)
            continue
        for experiment in experiments:
            if settings.only not in experiment.name:
                continue
            found = True
            try:
                await rounds.run(experiment, journal, lambda line: print(line, file=sys.stderr, flush=True))
            except Exception:
                # The edge of an experiment: what it lacks (vllm, namespaces, memory) the next one may not need.
                log.exception("%s failed", experiment.name)
                failed.append(experiment.name)
    return failed if found or failed else [f"--only {settings.only}: no experiment of these bars"]


def main() -> int:
    parsed = options()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    path = parsed.journal or BUILD / ("latency-quick.jsonl" if parsed.quick else "latency.jsonl")
    if parsed.quick and not parsed.no_run and parsed.journal is None:
        # What an earlier quick run saw would hide what no longer works.
        path.unlink(missing_ok=True)
    journal = Journal(path)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="deserve-bars-") as scratch:
        settings = Settings(1 if parsed.quick else parsed.rounds, parsed.quick, Path(scratch), parsed.only)
        if not parsed.no_run:
            failed = asyncio.run(measure(settings, parsed.bars, journal))
        rows = [row for group in groups(parsed.bars) for row in group.rows(journal, settings)]
    rows = sorted((row for row in rows if row.requirement.bar in parsed.bars), key=lambda row: row.requirement.bar)
    reasons = report.load_reasons()
    print(report.as_table(rows, reasons))
    if parsed.json is not None:
        parsed.json.write_text(report.as_json(rows, reasons, machine()) + "\n")
    if parsed.markdown is not None:
        parsed.markdown.write_text(report.as_markdown(rows, reasons, {"d": setting_of_deserve.as_markdown(journal)}))
    if parsed.plot is not None:
        from bars.plot import draw

        draw(journal, parsed.plot)
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
