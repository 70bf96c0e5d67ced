"""Exposure: no chunk is begun while more than one is unpaid, nor beyond what is locked for this node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_ledger.prices import UNITS_PER_PRICE
from deserve_node.wallet.exposure import Collateral, Exposure, Worked

RICH = Collateral(0, 0, 0, 2**100)
ROW = (bytes(32), 7, 1, 0)
OTHER = (bytes(32), 8, 1, 0)


def work(number: int, *, chunk: int | None = None, units: int = 100, rows: frozenset = frozenset()) -> Worked:
    return Worked(
        number.to_bytes(32, "big"), ("r-1", 1, number if chunk is None else chunk), units * UNITS_PER_PRICE, rows
    )


def test_the_second_unpaid_chunk_is_the_last():
    exposure = Exposure()
    exposure.worked([work(0)])
    assert exposure.fault(RICH) is None
    exposure.worked([work(1)])
    assert exposure.fault(RICH) == "2 chunks are unpaid, at most 1 may be"
    exposure.covered([work(0).work_id])
    assert exposure.fault(RICH) is None


def test_a_chunk_is_due_once_its_rows_have_left():
    exposure = Exposure()
    for number in range(5):
        exposure.worked([work(number, rows=frozenset({ROW, OTHER}))])
    assert (exposure.due_chunks, exposure.unpaid) == (0, 500)
    exposure.over([ROW])
    assert exposure.due_chunks == 0
    exposure.over([OTHER])
    assert exposure.due_chunks == 5


def test_a_row_that_left_before_its_chunk_was_closed_is_over():
    exposure = Exposure()
    exposure.over([ROW])
    exposure.worked([work(0, rows=frozenset({ROW}))])
    assert exposure.due_chunks == 1


def test_what_a_ring_left_open_is_never_due_and_always_counted():
    exposure = Exposure()
    exposure.remembered([work(n) for n in range(9)])
    assert (exposure.due_chunks, exposure.unpaid) == (0, 900)
    assert exposure.fault(Collateral(0, 0, 0, 899)) is not None


def test_receipts_of_one_chunk_are_one_chunk_and_their_worth_adds_up():
    exposure = Exposure()
    exposure.worked([work(0, chunk=0), work(1, chunk=0)])
    assert exposure.due_chunks == 1
    assert exposure.largest_micros == 200 * UNITS_PER_PRICE
    exposure.worked([work(0, chunk=0)])
    assert exposure.unpaid == 200


@pytest.mark.parametrize(
    ("collateral", "serves"),
    [
        (Collateral(0, 0, 0, 200), True),  # 100 unpaid, 100 for the next chunk
        (Collateral(0, 0, 0, 199), False),
        (Collateral(500, 500, 0, 200), True),
        (Collateral(500, 499, 0, 200), False),
        (Collateral(0, 0, 1, 200), False),
        (Collateral(5, 9, 0, 200), True),  # claimed by another credit than the newest
    ],
)
def test_the_reservation_must_hold_what_is_owed_and_one_chunk_more(collateral, serves):
    exposure = Exposure()
    exposure.worked([work(0)])
    assert (exposure.fault(collateral) is None) == serves


def test_without_a_reservation_nothing_is_begun():
    assert "reservation" in (Exposure().fault(Collateral(0, 0, 0, 0)) or "")


@given(st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=1, max_size=40), st.integers(0, 20_000))
def test_a_node_that_obeys_is_never_owed_more_than_is_locked(chunks, safe):
    """The coordinator pays or not, as it likes; chunks are at most as large as the largest so far was foreseen."""
    exposure, credited, largest = Exposure(), 0, 0
    for number, (units, pays) in enumerate(chunks):
        if exposure.fault(Collateral(credited, 0, 0, safe)) is not None:
            break
        units = min(units, largest) if largest else min(units, safe)
        largest = max(largest, units)
        exposure.worked([work(number, units=units)])
        assert credited + exposure.unpaid <= safe
        assert exposure.due_chunks <= 2
        if pays:
            exposure.covered([work(number).work_id])
            credited += units
