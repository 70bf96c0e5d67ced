"""Merkle trees: every leaf has a proof, nothing else has one, and OpenZeppelin's published tree comes out."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from deserve_ledger.amounts import format_amount, parse_amount
from deserve_ledger.errors import InvalidField
from deserve_ledger.identifiers import Work, job_id, node_id, ring_key
from deserve_ledger.merkle import EMPTY_ROOT, MerkleTree, claim_leaf, leaf_hash, verify

LEAVES = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=40, unique=True)


@given(LEAVES, st.data())
def test_every_leaf_has_a_proof_and_no_other_has(contents, data):
    leaves = [leaf_hash(content) for content in contents]
    tree = MerkleTree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = tree.proof(index)
    assert verify(tree.root, leaves[index], proof)
    assert not verify(tree.root, leaf_hash(contents[index] + b"x"), proof)
    if proof:
        assert not verify(tree.root, leaves[index], proof[:-1])
    assert len(proof) <= max(1, len(leaves) - 1).bit_length()


def test_an_inner_node_is_no_leaf():
    tree = MerkleTree([leaf_hash(bytes([n])) for n in range(4)])
    inner = keccak(b"".join(sorted(leaf_hash(bytes([n])) for n in (0, 1))))
    assert verify(tree.root, inner, tree.proof(0)[1:])  # as a hash it is one of the tree's,
    assert leaf_hash(b"".join(sorted(leaf_hash(bytes([n])) for n in (0, 1)))) != inner  # but no content hashes to it


def test_no_leaves_have_the_empty_root():
    assert MerkleTree([]).root == EMPTY_ROOT
    with pytest.raises(IndexError):
        MerkleTree([bytes(32)]).proof(1)


def test_names_depend_on_every_part():
    work = Work(bytes(32), ring_key("r-1"), 1, 2, 3, 4, 5)
    others = [Work(bytes(32), ring_key("r-2"), 1, 2, 3, 4, 5), Work(b"\1" * 32, ring_key("r-1"), 1, 2, 3, 4, 5)]
    others += [Work(bytes(32), ring_key("r-1"), *(n + (i == at) for i, n in enumerate(range(1, 6)))) for at in range(5)]
    assert len({work.work_id, *(other.work_id for other in others)}) == 8
    assert len({job_id(bytes(20), bytes(32)), job_id(b"\1" * 20, bytes(32)), node_id(b"\1" * 20, bytes(32))}) == 2
    assert claim_leaf(bytes(20), 1, bytes(32), 5) != claim_leaf(bytes(20), 2, bytes(32), 5)


@given(st.integers(0, 2**128 - 1), st.integers(0, 18))
def test_amounts_are_read_back_as_written(amount, decimals):
    assert parse_amount("budget", format_amount(amount, decimals), decimals) == amount


@pytest.mark.parametrize("text", ["", ".", "-1", "1e5", "1.2345", "1,5", "٣", str(2**128)])
def test_what_is_no_amount_is_named(text):
    with pytest.raises(InvalidField, match="--budget"):
        parse_amount("--budget", text, 3)
