"""Money in and out of the ledger's keeping, and terms under which there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from evm import Refused
from panels import seat, vote
from world import ACCUSED, BANK, BURNT, DOUBTER, FUNDS, PAYER, STRANGER, TERMS, World, odd_token, settle_in

from deserve_ledger.calls import Call, Deposit, Resolve, Withdraw
from deserve_ledger.contracts import Artifact
from deserve_ledger.records import Terms


def test_a_deposit_is_a_balance_and_a_withdrawal_tokens_again(world: World) -> None:
    before = world.balance(PAYER)
    done = world.submit(PAYER, Deposit(70))
    assert world.balance(PAYER) == before + 70
    assert done.events[-1].fields == {"account": PAYER.address, "amount": 70}
    done = world.submit(PAYER, Withdraw(before + 70))
    assert (done.events[0].name, done.events[0].fields["amount"]) == ("Withdrawn", before + 70)
    assert world.balance(PAYER) == 0
    assert world.tokens(PAYER.address) == FUNDS // 2 + before


def test_nobody_withdraws_more_than_it_has(world: World) -> None:
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(PAYER, Withdraw(world.balance(PAYER) + 1))


def test_tokens_that_are_not_approved_or_not_there_are_not_taken(world: World) -> None:
    # OpenZeppelin's token has errors of its own; the ledger passes them on.
    with pytest.raises(Refused, match="ERC20InsufficientAllowance"):
        world.submit(PAYER, Deposit(FUNDS))
    assert world.balance(PAYER) == world.balances()["payer"]


def test_totals_say_where_everything_is(world: World) -> None:
    totals = world.totals()
    assert totals.balances == sum(world.balances().values())
    assert (totals.stakes, totals.undrawn, totals.reservations, totals.bonds, totals.burnt) == (5005, 5000, 400, 999, 0)


@pytest.mark.parametrize("fee", [1, 5])
def test_a_token_that_takes_a_fee_is_refused(artifact: Artifact, fee: int) -> None:
    world = World(artifact, odd_token(), 10**6, fee, bytes(20))
    world.token.call(BANK.address, "approve", world.ledger.address, 1000)
    with pytest.raises(Refused, match="FeeOnTransfer"):
        world.submit(BANK, Deposit(1000))
    assert world.tokens(world.ledger.address) == world.balance(BANK) == 0


@pytest.mark.parametrize("function", ["deposit", "withdraw"])
def test_a_token_that_calls_back_is_kept_out(artifact: Artifact, function: str) -> None:
    world = World(artifact, odd_token(), 10**6, 0, bytes(20))
    world.token.call(BANK.address, "approve", world.ledger.address, 1000)
    world.submit(BANK, Deposit(500))
    world.token.call(BANK.address, "callBack", world.ledger.address, world.ledger.encode(function, 0))
    for call in (Deposit(100), Withdraw(100)):
        with pytest.raises(Refused, match="ReentrancyGuardReentrantCall"):
            world.submit(BANK, call)
    assert world.balance(BANK) == world.tokens(world.ledger.address) == 500


def test_a_stranger_has_no_balance_and_no_way_to_one(world: World, artifact: Artifact) -> None:
    assert world.balance(STRANGER) == FUNDS // 2
    for function in ("owner", "pause", "upgradeTo", "transferOwnership", "mint", "sweep"):
        assert function not in {entry.get("name") for entry in artifact.abi}


def test_the_terms_are_read_as_they_were_agreed(world: World) -> None:
    assert Terms(*world.ledger.read("terms")) == TERMS
    assert world.ledger.read("token") == world.token.address


TOO_LONG = 3650 * 86400 + 1


@pytest.mark.parametrize(
    "terms",
    [
        replace(TERMS, unbonding_s=TERMS.challenge_window_s + TERMS.audit_retention_s),
        replace(TERMS, release_delay_s=TERMS.challenge_window_s - 1),
        replace(TERMS, min_stake=0),
        replace(TERMS, challenge_bond=0),
        replace(TERMS, draw_delay_blocks=0),
        replace(TERMS, commit_period_s=0),
        replace(TERMS, reveal_period_s=0),
        replace(TERMS, challenge_window_s=TOO_LONG, unbonding_s=2 * TOO_LONG, release_delay_s=TOO_LONG),
        replace(TERMS, audit_retention_s=TOO_LONG, unbonding_s=2 * TOO_LONG),
        replace(TERMS, unbonding_s=TOO_LONG),
        replace(TERMS, refund_grace_s=TOO_LONG),
        replace(TERMS, release_delay_s=TOO_LONG),
        replace(TERMS, draw_delay_blocks=TOO_LONG),
        replace(TERMS, commit_period_s=TOO_LONG),
        replace(TERMS, reveal_period_s=TOO_LONG),
    ],
)
def test_terms_that_let_somebody_leave_too_early_or_wait_for_ever_are_refused(
    world: World, artifact: Artifact, terms: Terms
) -> None:
    with pytest.raises(Refused, match="BadTerms"):
        world.evm.deploy(BANK.address, artifact, world.token.address, terms)


def test_there_is_no_ledger_without_a_token(world: World, artifact: Artifact) -> None:
    with pytest.raises(Refused, match="ZeroAddress"):
        world.evm.deploy(BANK.address, artifact, bytes(20), TERMS)


SLASHING: dict[str, Callable[[World], Call]] = {
    "receipts": lambda world: world.contradiction(),
    "credits": lambda world: world.double_credit(),
    "verdict": lambda world: Resolve(1),
}


@pytest.mark.parametrize("kind", SLASHING)
@pytest.mark.parametrize("trouble", ["refuses", "calls back"])
def test_a_token_that_makes_trouble_over_a_burn_stops_no_verdict(artifact: Artifact, kind: str, trouble: str) -> None:
    refused = BURNT if trouble == "refuses" else bytes(20)
    world = settle_in(World(artifact, odd_token(), 10**12, 0, refused))
    if kind == "verdict":
        vote(world, seat(world, DOUBTER), "ggg")
    if trouble == "calls back":  # which is kept out, and fails the burn with it
        world.token.call(BANK.address, "callBack", world.ledger.address, world.ledger.encode("deposit", 0))
    world.submit(DOUBTER, SLASHING[kind](world))
    assert world.coordinator().slashed if kind == "credits" else world.node(ACCUSED).slashed
    assert world.ledger.read("balanceOf", BURNT) == 401
    assert world.totals().burnt == 0
    assert world.tokens(world.ledger.address) == world.totals().held
