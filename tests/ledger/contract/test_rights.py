"""Nobody moves another's money: a call takes from its caller, or from whoever signed for it, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from evm import Done, Refused
from panels import seat
from world import (
    ACCUSED,
    COORDINATOR,
    DOUBTER,
    EVERYBODY,
    JOB,
    OPERATORS,
    PAYER,
    RESERVED,
    RIVAL,
    SIGNER,
    STRANGER,
    TERMS,
    Party,
    World,
)

from deserve_ledger.calls import (
    AddBond,
    AddStake,
    BeginBondRelease,
    BeginUnbond,
    Call,
    Claim,
    CommitVote,
    Deposit,
    DrawPanel,
    OpenJob,
    PostRoot,
    Refund,
    Release,
    RequestRelease,
    Reserve,
    Resolve,
    RevealVote,
    Withdraw,
    WithdrawBond,
    WithdrawStake,
)
from deserve_ledger.merkle import claim_leaf


def wealth(world: World) -> dict[Party, int]:
    """All that is each party's in the ledger, in whatever pocket."""
    own = {party: world.balance(party) for party in EVERYBODY}
    for operator in OPERATORS:
        own[operator] += world.node(operator).stake
    own[COORDINATOR] += world.coordinator().bond + world.reservation().amount
    job = world.job()
    own[PAYER] += 0 if job.refunded else job.budget - job.drawn
    return own


@pytest.fixture(scope="module")
def before(settled: World) -> dict[Party, int]:
    return wealth(settled)


# Each with the parties who may lose by it besides the caller: whoever signed.
CALLS: dict[str, tuple[Callable[[World], Call], set[Party]]] = {
    "deposit": (lambda world: Deposit(5), set()),
    "withdraw": (lambda world: Withdraw(5), set()),
    "register": (lambda world: world.bind(STRANGER), set()),
    "add stake": (lambda world: AddStake(ACCUSED.node_id, 5), set()),
    "unbond": (lambda world: BeginUnbond(ACCUSED.node_id), set()),
    "withdraw stake": (lambda world: WithdrawStake(ACCUSED.node_id), set()),
    "bond": (lambda world: AddBond(5), set()),
    "release bond": (lambda world: BeginBondRelease(), set()),
    "withdraw bond": (lambda world: WithdrawBond(), set()),
    "job": (lambda world: OpenJob(bytes(32), RIVAL.address, SIGNER.address, 5, world.evm.now_s + 9), set()),
    "voucher": (lambda world: world.voucher(5), {PAYER}),
    "refund": (lambda world: Refund(JOB), set()),
    "reserve": (lambda world: Reserve(ACCUSED.node_id, 5), set()),
    "request": (lambda world: RequestRelease(ACCUSED.node_id, 0), set()),
    "release": (lambda world: Release(ACCUSED.node_id), set()),
    "root": (lambda world: PostRoot(1, claim_leaf(COORDINATOR.address, 1, ACCUSED.node_id, 9)), set()),
    "claim": (lambda world: Claim(COORDINATOR.address, 1, ACCUSED.node_id, 9, ()), {COORDINATOR}),
    "credit": (lambda world: world.credit(5), {COORDINATOR}),
    "contradiction": (lambda world: world.contradiction(), {ACCUSED}),
    "double credit": (lambda world: world.double_credit(), {COORDINATOR}),
    "challenge": (lambda world: world.doubt(), set()),
    "draw": (lambda world: DrawPanel(1), set()),
    "commit": (lambda world: CommitVote(1, OPERATORS[1].node_id, b"\1" * 32), set()),
    "reveal": (lambda world: RevealVote(1, OPERATORS[1].node_id, True, b"\5" * 32), set()),
    "resolve": (lambda world: Resolve(1), set()),
}


def submit(world: World, party: Party, call: Call) -> Done | None:
    try:
        return world.submit(party, call)
    except Refused:
        return None


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("caller", [STRANGER, COORDINATOR], ids=lambda party: party.name)
def test_whoever_calls_only_caller_and_signers_lose(
    world: World, before: dict[Party, int], caller: Party, kind: str
) -> None:
    make, signers = CALLS[kind]
    submit(world, caller, make(world))
    after = wealth(world)
    assert [party.name for party in EVERYBODY if after[party] < before[party] and party not in signers | {caller}] == []


def test_there_is_no_other_call() -> None:
    # A new call must come into the table above.
    assert len(CALLS) == len(Call.__args__)  # type: ignore[attr-defined]


def test_whatever_is_open_ends_by_time_and_everybody_leaves_with_all(world: World) -> None:
    """No party but the one who leaves is asked for anything: time and strangers do."""
    world.submit(COORDINATOR, world.voucher(100))
    world.submit(ACCUSED, world.credit(50))
    world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, RESERVED - 50))
    world.submit(COORDINATOR, BeginBondRelease())
    panel = seat(world, DOUBTER)  # of which nobody says a word
    world.submit(STRANGER, world.doubt(operator=OPERATORS[1]))  # and this one is never drawn
    for operator in OPERATORS:
        world.submit(operator, BeginUnbond(operator.node_id))
    before = sum(wealth(world).values()) + 2 * TERMS.challenge_bond
    assert len(panel) == 3

    world.pass_s(max(TERMS.unbonding_s, 2 * (TERMS.commit_period_s + TERMS.reveal_period_s)))
    for challenge_id in (1, 2):
        world.submit(STRANGER, Resolve(challenge_id))
    world.submit(STRANGER, Refund(JOB))
    world.submit(COORDINATOR, Release(ACCUSED.node_id))
    world.submit(COORDINATOR, WithdrawBond())
    for operator in OPERATORS:
        world.submit(operator, WithdrawStake(operator.node_id))
    left = world.totals()
    assert (left.balances, left.held) == (before, before)
    for party in EVERYBODY:
        world.submit(party, Withdraw(world.balance(party)))
    assert world.tokens(world.ledger.address) == 0
