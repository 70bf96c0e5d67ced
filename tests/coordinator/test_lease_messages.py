"""Seeds and token logs survive the way through the store; what a head reports is checked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.lease_messages import finished_rows, lease_message, returned_rows, row_seed
from deserve_coordinator.store.records import LeasedRecord, LeaseRecord
from deserve_network.control_messages import RowLog, RowResult
from deserve_network.ring_messages import SampledToken, TokenLogprob

tokens = st.builds(
    SampledToken,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.floats(-9, 0),
    st.lists(st.builds(TokenLogprob, st.integers(0, 9), st.floats(-9, 0)), max_size=2).map(tuple),
)


@given(st.lists(tokens, max_size=5).map(tuple))
def test_a_token_log_comes_back_as_it_was_returned(generated: tuple[SampledToken, ...]) -> None:
    (returned,) = returned_rows([RowLog(1, 2, 2, generated)])
    row = LeasedRecord(1, "batch", 0, "/v1/completions", b"{}", returned.log)
    assert lease_message(LeaseRecord(3, 3, (row,)), 60.0).rows[0].generated == generated


@given(st.text(min_size=1), st.integers(0, 50_000))
def test_seeds_are_stable_and_fit_the_message(batch_id: str, ordinal: int) -> None:
    assert 0 <= row_seed(batch_id, ordinal) < 2**63
    assert row_seed(batch_id, ordinal) == row_seed(batch_id, ordinal) != row_seed(batch_id, ordinal + 1)


def test_a_given_seed_makes_batches_repeatable() -> None:
    rows = [LeasedRecord(1, batch, 4, "/v1/completions", b"{}", None) for batch in ("a", "b")]
    free, fixed = ([lease_message(LeaseRecord(1, 1, (r,)), 1.0, seed).rows[0].seed for r in rows] for seed in (None, 7))
    assert free[0] != free[1]
    assert fixed[0] == fixed[1]


def test_a_row_carries_its_batchs_codec() -> None:
    row = LeasedRecord(1, "batch", 0, "/v1/completions", b"{}", None, "int8")
    assert lease_message(LeaseRecord(1, 1, (row,)), 1.0).rows[0].codec == "int8"


def test_a_body_over_several_lines_becomes_one() -> None:
    (row,) = finished_rows([RowResult(1, 1, 1, b'{"a":\n "\xc3\xa9"}', 200, 1, 1)])
    assert row.body == b'{"a": "\xc3\xa9"}'
