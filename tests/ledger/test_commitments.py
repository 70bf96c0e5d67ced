"""What a receipt's roots are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deserve_ledger.commitments import RowPart, climb, digest, hash_pair, print_seed, root_of, row_leaf

PART = RowPart(b"j" * 32, row=5, lease=2, attempt=0, start=10, count=3)


@pytest.mark.parametrize(
    "other",
    [
        replace(PART, job_id=b"k" * 32),
        replace(PART, row=6),
        replace(PART, lease=3),
        replace(PART, attempt=1),
        replace(PART, start=11),
        replace(PART, count=4),
    ],
)
def test_the_same_bytes_elsewhere_are_another_leaf(other: RowPart) -> None:
    assert row_leaf(PART, digest(b"x")) != row_leaf(other, digest(b"x"))
    assert row_leaf(PART, digest(b"x")) != row_leaf(PART, digest(b"y"))


def test_a_path_leads_from_a_leaf_to_its_root_and_from_no_other() -> None:
    leaves = [row_leaf(replace(PART, row=row), digest(b"x")) for row in range(3)]
    root = hash_pair(hash_pair(leaves[0], leaves[1]), leaves[2])
    assert climb(leaves[1], (leaves[0], leaves[2])) == root
    assert climb(leaves[2], (leaves[0], leaves[1])) != root


def test_an_inner_node_is_no_leaf() -> None:
    one, other = digest(b"1"), digest(b"2")
    assert hash_pair(one, other) == hash_pair(other, one)
    assert hash_pair(one, other) != digest(one + other)


def test_both_roots_count_and_each_in_its_place() -> None:
    one, other = digest(b"1"), digest(b"2")
    assert len({root_of(one, other), root_of(other, one), root_of(one, one)}) == 3
    assert len({print_seed(one, other), print_seed(other, one), print_seed(one, one)}) == 3
