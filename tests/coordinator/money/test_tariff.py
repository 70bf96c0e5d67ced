"""Money is exact until the very end, and what is rounded away is nobody's loss but the fraction of one unit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.money.delivered import shown_tokens
from deserve_coordinator.money.results_tree import GrowingTree, result_leaf
from deserve_coordinator.money.tariff import (
    RowSize,
    StageTerms,
    charge_exact,
    dearest_row,
    earned_micros,
    most_a_node_may_ask,
    whole_charge,
    whole_earning,
)
from deserve_ledger.merkle import MerkleTree

PRICES = st.integers(0, 2**64)
TOKENS = st.integers(0, 5000)


def stages(prices: list[tuple[int, int]]) -> list[StageTerms]:
    return [StageTerms(bytes([k]) * 32, k * 2, k * 2 + 2, *price) for k, price in enumerate(prices)]


@given(
    st.lists(st.tuples(PRICES, PRICES), min_size=1, max_size=5),
    st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=20),
    st.integers(0, 10**6),
)
def test_the_payer_is_charged_for_all_nodes_and_the_margin_and_never_a_whole_unit_more(
    prices: list[tuple[int, int]], rows: list[tuple[int, int]], margin: int
) -> None:
    ring = stages(prices)
    earned = [sum(earned_micros(terms, *row) for row in rows) for terms in ring]
    exact = charge_exact(sum(earned), margin)
    charge = whole_charge(exact)
    assert charge * 10**12 <= exact < (charge + 1) * 10**12
    assert sum(map(whole_earning, earned)) <= charge
    assert charge <= sum(whole_earning(e) + 1 for e in earned) * (10**6 + margin) // 10**6 + 1


@given(PRICES, PRICES, st.integers(0, 10**6), TOKENS, TOKENS)
def test_no_row_is_dearer_than_its_upper_bound_at_the_highest_price_that_a_node_may_ask(
    prefill: int, decode: int, margin: int, prompt: int, completion: int
) -> None:
    most = most_a_node_may_ask(prefill, margin), most_a_node_may_ask(decode, margin)
    bound = dearest_row(RowSize(prompt, completion, 0), 7, *most, margin)
    exact = charge_exact(earned_micros(StageTerms(b"", 0, 7, *most), prompt, completion), margin)
    assert whole_charge(exact) <= bound
    assert bound <= 7 * (prompt * prefill + completion * decode) // 10**6 + 1


@given(st.integers(0, 70))
def test_a_growing_tree_has_the_root_of_the_tree_over_all_leaves(count: int) -> None:
    leaves = [result_leaf(f"r{i}", b"{}") for i in range(count)]
    tree = GrowingTree()
    for leaf in leaves:
        tree = GrowingTree.from_bytes(tree.count, tree.to_bytes()).with_leaf(leaf)
    assert tree.root == MerkleTree(leaves).root


def test_a_result_shows_its_ids_exactly_or_the_bytes_of_its_text_at_most() -> None:
    assert shown_tokens({"choices": [{"text": "x", "token_ids": [1, 2, 3]}]}) == (3, True)
    assert shown_tokens({"choices": [{"message": {"content": "grün"}}]}) == (5, False)
    assert shown_tokens({"choices": [{"text": "abc"}]}) == (3, False)
    for odd in ({}, {"choices": []}, {"choices": ["x"]}, {"choices": [{"message": {"content": None}}]}):
        assert shown_tokens(odd) == (0, False)
