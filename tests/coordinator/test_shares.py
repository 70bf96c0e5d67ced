"""Rows are divided fairly between batches and between rings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.shares import Transfer, batch_shares, ring_allowance, transfer
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


def test_a_ring_that_forms_late_gets_its_part_of_what_the_richest_holds() -> None:
    assert transfer({"a": 150, "b": 0}, {"a": 170, "b": 320}) == Transfer("a", "b", 75)
    assert transfer({"a": 150, "b": 0}, {"b": 8}) == Transfer("a", "b", 8)
    assert transfer({"a": 75, "b": 75, "c": 0}, {"a": 9, "b": 9, "c": 320}) == Transfer("a", "c", 25)
    assert transfer({"a": 50, "b": 75, "c": 25}, {"c": 295}) == Transfer("b", "c", 25)


def test_rings_that_are_nearly_even_are_left_alone() -> None:
    assert transfer({"a": 80, "b": 70}, {"b": 250}) is None
    assert transfer({"a": 5, "b": 0}, {"b": 320}) is None
    assert transfer({"a": 150, "b": 0}, {"a": 170}) is None
    assert transfer({"a": 150}, {"a": 170}) is None
    assert transfer({}, {}) is None


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1))
def test_transfers_end_and_never_turn_rich_into_poor(rings: dict[str, tuple[int, int]]) -> None:
    held = {name: rows for name, (rows, _) in rings.items()}
    wanted = {name: rows for name, (_, rows) in rings.items() if rows}
    share = -(-sum(held.values()) // len(held))
    for _ in range(4 * sum(held.values()) + 1):
        found = transfer(held, wanted)
        if found is None:
            return
        held[found.source] -= found.rows
        held[found.asker] += found.rows
        assert held[found.asker] <= share <= held[found.source]
        wanted[found.asker] -= found.rows
        if not wanted[found.asker]:
            del wanted[found.asker]
    raise AssertionError("rows go back and forth")
