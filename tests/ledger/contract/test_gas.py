"""What the calls cost, and that the document says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from gas import ALLOWANCE, Measured, measure, render

DOCUMENT = Path(__file__).parents[3] / "docs" / "ledger.md"


@pytest.fixture(scope="module")
def table() -> list[Measured]:
    return measure()


def test_no_call_costs_more_than_its_bar_allows(table: list[Measured]) -> None:
    assert [row for row in table if row.bar and row.gas > row.bar * ALLOWANCE] == []
    assert sum(row.bar is not None for row in table) == 10


def test_the_document_has_these_figures(table: list[Measured]) -> None:
    assert render(table) in DOCUMENT.read_text(), "python tests/ledger/contract/gas.py prints the table anew"
