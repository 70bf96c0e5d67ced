"""Every check of the contract is there for a test's sake, too: without it some test is red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

from deserve_ledger.contracts import compiler

HERE = Path(__file__).parent
TESTS_FAILED = 1
TEST_TIMEOUT_S = 600
# Without the intermediate representation: half the time, a little more code and gas, the same contract.
QUICK = {**compiler.SETTINGS, "viaIR": False, "optimizer": {"enabled": True, "runs": 1}}


def test_every_mutant_changes_what_is_there() -> None:
    sources = compiler.own_sources()
    for mutant in MUTANTS:
        assert mutant.apply(sources) != sources
        assert (HERE / f"test_{mutant.tests}.py").exists()
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.soak
@pytest.mark.timeout(TEST_TIMEOUT_S + 300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    try:
        modules = compiler.install()
    except compiler.CompilerMissing as error:
        pytest.skip(str(error))
    mutated = mutant.apply(compiler.own_sources())
    compiled = compiler.compile_sources(modules, mutated, ("DeserveLedger",), settings=QUICK, warnings=True)
    compiler.write_artifact(tmp_path, compiled["DeserveLedger"])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", HERE / f"test_{mutant.tests}.py"],
        env={**os.environ, "DESERVE_LEDGER_ARTIFACT": str(tmp_path / "DeserveLedger.json")},
        cwd=HERE.parents[2],
        timeout=TEST_TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == TESTS_FAILED, f"{mutant.name} goes unnoticed:\n{done.stdout}{done.stderr}"
