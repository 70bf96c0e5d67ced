"""Rows are divided fairly between batches and between rings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.shares import batch_shares, ring_allowance
from deserve_coordinator.store.records import Backlog

backlogs = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=6).map(
    lambda counts: [Backlog(str(i), pending, leased) for i, (pending, leased) in enumerate(counts)]
)


@given(backlogs, st.integers(0, 100))
def test_shares_take_all_that_is_asked_for_or_there_and_level_the_rows_in_flight(
    backlog: list[Backlog], rows: int
) -> None:
    shares = batch_shares(backlog, rows)
    assert sum(shares.values()) == min(rows, sum(b.pending for b in backlog))
    after = {b.batch_id: b.leased + shares.get(b.batch_id, 0) for b in backlog}
    for poor in backlog:
        if shares.get(poor.batch_id, 0) < poor.pending:
            assert all(after[rich] <= after[poor.batch_id] + 1 for rich in shares)


def test_a_late_small_batch_is_served_first() -> None:
    assert batch_shares([Backlog("big", 1000, 64), Backlog("late", 8, 0)], 16) == {"big": 8, "late": 8}


def test_a_ring_gets_its_equal_part() -> None:
    backlog = [Backlog("b", 64, 0)]
    assert ring_allowance(backlog, wanted=256, held=0, rings=2) == 32
    assert ring_allowance([Backlog("b", 32, 32)], wanted=224, held=32, rings=2) == 0
    assert ring_allowance([Backlog("b", 1, 0)], wanted=4, held=0, rings=3) == 1
    assert ring_allowance([], wanted=4, held=0, rings=0) == 0
