"""Whatever accounts do in whatever order, both ledgers agree, nothing is lost or made, and everybody gets what is his.

One Hypothesis state machine (`ledger_runs`) for the embedded ledger, the contract, both side by side with the same
signatures, and the machine beside the backend that talks to a chain over JSON-RPC.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from ledger_backends import Both, Embedded, Known, OnChain
from ledger_parties import ACCOUNTS, KEYS, Signatures, node_of, peer_key, receipt_key
from ledger_runs import RECEIPTS, Parties
from over_rpc import OverRpc, chain_for_runs

from deserve_ledger import calls
from deserve_ledger.merkle import MerkleTree, claim_leaf


class EmbeddedParties(Parties):
    backend = Embedded


class PartiesOnChain(Parties):
    backend = OnChain


class PartiesOnBoth(Parties):
    backend = Both


_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _runs(parties: type[Parties], examples: int, steps: int) -> Any:
    case = parties.TestCase
    case.settings = settings(_SETTINGS, max_examples=examples, stateful_step_count=steps)
    return case


TestEmbedded = _runs(EmbeddedParties, 50, 40)
TestBoth = _runs(PartiesOnBoth, 5, 40)


@pytest.mark.soak
@pytest.mark.parametrize("parties", [EmbeddedParties, PartiesOnChain, PartiesOnBoth])
def test_many_more_runs(parties):
    run_state_machine_as_test(parties, settings=settings(_SETTINGS, max_examples=500, stateful_step_count=80))


CLAIMS = st.tuples(st.sampled_from([2, 3]), st.integers(0, 600), st.booleans())


@pytest.mark.parametrize(("backend", "examples"), [(Embedded, 30), (OnChain, 2)])
def test_the_order_of_claims_does_not_matter(backend, examples):
    @settings(_SETTINGS, max_examples=examples)
    @given(st.lists(CLAIMS, min_size=2, max_size=5), st.randoms(use_true_random=False))
    def same_in_any_order(owed, random):
        ends = []
        for claims in (owed, random.sample(owed, len(owed))):
            ledger = backend()
            _claim_all(ledger, owed, claims)
            reservations = {(ACCOUNTS[0], node_of(operator)) for operator in (2, 3)}
            ends.append(ledger.view(Known({node_of(2), node_of(3)}, reservations=reservations)))
        assert ends[0] == ends[1]

    same_in_any_order()


def _claim_all(ledger, owed, claims):
    """Each (operator, cumulative sum, whether under a root) is claimed of coordinator 0, which has reserved 300."""
    signed = Signatures(ledger.domain)
    for operator in (2, 3):
        bound = signed.bind(operator, 0, 7, receipt_key(0))
        ledger.submit(ACCOUNTS[operator], calls.RegisterNode(peer_key(0), RECEIPTS, 100, 7, bound))
        ledger.submit(ACCOUNTS[0], calls.Reserve(node_of(operator), 300))
    leaves = [claim_leaf(ACCOUNTS[0], 1, node_of(operator), cumulative) for operator, cumulative, _ in owed]
    tree = MerkleTree(leaves)
    ledger.submit(ACCOUNTS[0], calls.PostRoot(1, tree.root))
    for operator, cumulative, under_root in claims:
        index = leaves.index(claim_leaf(ACCOUNTS[0], 1, node_of(operator), cumulative))
        credit = signed.credit(0, node_of(operator), cumulative, 1, KEYS[0])
        proven = calls.Claim(ACCOUNTS[0], 1, node_of(operator), cumulative, tree.proof(index))
        outcome = ledger.submit(ACCOUNTS[5], proven if under_root else calls.ClaimCredit(*credit))
        assert outcome[0] == "done"


@pytest.fixture(scope="module")
def rpc_chain():
    with chain_for_runs() as chain:
        yield chain


@pytest.mark.parametrize("examples", [1, pytest.param(30, marks=pytest.mark.soak)])
def test_the_backend_for_a_chain_does_as_the_machine(rpc_chain, examples):
    parties = type("PartiesOverRpc", (Parties,), {"backend": functools.partial(OverRpc, rpc_chain)})
    run_state_machine_as_test(
        parties,
        settings=settings(_SETTINGS, max_examples=1 + examples, stateful_step_count=25, phases=[Phase.generate]),
    )
