"""Prices: rounded once, downwards, on the whole; so cutting work into pieces changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_ledger.errors import InvalidField
from deserve_ledger.prices import UNITS_PER_PRICE, Prices, parse_prices

UNITS = st.integers(0, 2**48)
PRICES = st.builds(Prices, st.integers(0, 2**70), st.integers(0, 2**70))
WORK = st.tuples(UNITS, UNITS)


@given(PRICES, WORK)
def test_never_more_than_exact_and_less_than_one_unit_short(prices, work):
    exact = work[0] * prices.prefill + work[1] * prices.decode
    assert 0 <= exact - prices.of(*work) * UNITS_PER_PRICE < UNITS_PER_PRICE


@given(PRICES, st.lists(WORK, max_size=12))
def test_pieces_never_come_to_more_than_the_whole(prices, pieces):
    whole = prices.of(sum(prefill for prefill, _ in pieces), sum(decode for _, decode in pieces))
    parts = sum(prices.of(*piece) for piece in pieces)
    assert parts <= whole <= parts + max(0, len(pieces) - 1)


@given(PRICES, WORK, WORK)
def test_a_debt_only_grows(prices, before, more):
    assert prices.of(*before) <= prices.of(before[0] + more[0], before[1] + more[1])


@given(PRICES, PRICES)
def test_within_is_both(price, most):
    assert price.within(most) == (price.prefill <= most.prefill and price.decode <= most.decode)


@given(PRICES)
def test_prices_are_read_back_as_shown(prices):
    assert parse_prices("--max-price", prices.show(18), 18) == prices


def test_one_number_is_both_prices():
    assert parse_prices("--max-price", "1.5", 6) == Prices(1_500_000, 1_500_000)
    assert parse_prices("--max-price", "0.2,1.5", 6) == Prices(200_000, 1_500_000)


@pytest.mark.parametrize("text", ["", "1,2,3", "a", "1,", "-1", "1.1234567"])
def test_what_is_no_price_is_named(text):
    with pytest.raises(InvalidField, match="--max-price"):
        parse_prices("--max-price", text, 6)


def test_negative_units_and_amounts_beyond_the_width_are_refused():
    with pytest.raises(InvalidField, match="decode_units"):
        Prices(1, 1).of(1, -1)
    with pytest.raises(InvalidField, match="amount"):
        Prices(2**128 - 1, 0).of(2**40, 0)
    with pytest.raises(InvalidField, match="decode"):
        Prices(0, -1)
