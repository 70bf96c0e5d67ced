"""Rings of the tiny model that commit to what passes through them."""

from __future__ import annotations

import pytest
from rings import Ring, load_text, stages_of


@pytest.fixture(scope="session")
def computes_of(tiny_files):
    """`computes_of(4)`: the engines of four stages, which rings may use one after the other."""
    made = {}

    def stages(count):
        if count not in made:
            made[count] = stages_of(tiny_files, count)
        return made[count]

    yield stages
    for computes in made.values():
        for compute in computes:
            compute.close()


@pytest.fixture
def ring_of(computes_of, tiny_files, tmp_path):
    """`ring_of(2)`: a ring of two stages, of the first epoch where nothing else is said."""
    made = []
    text = load_text(tiny_files)

    def ring(stages, **options):
        made.append(Ring(computes_of(stages), text, tmp_path, **options))
        return made[-1]

    yield ring
    for one in made:
        one.close()
