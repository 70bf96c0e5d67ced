from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World, make_world

from deserve_ledger.contracts import Artifact, load_artifact, parse_artifact


@pytest.fixture(scope="session")
def artifact() -> Artifact:
    """The committed one; mutants.py names that of a mutant in the environment."""
    mutant = os.environ.get("DESERVE_LEDGER_ARTIFACT")
    return parse_artifact(json.loads(Path(mutant).read_text())) if mutant else load_artifact("DeserveLedger")


@pytest.fixture(scope="session")
def settled(artifact: Artifact) -> World:
    return make_world(artifact)


@pytest.fixture
def world(settled: World) -> Iterator[World]:
    """As `settle_in` leaves it. After each test the ledger must still hold what its totals say, to the last unit."""
    with settled.undone():
        yield settled
        assert settled.tokens(settled.ledger.address) == settled.totals().held
