"""Two signed statements that exclude each other cost all that was put up; nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evm import Refused
from world import (
    ACCUSED,
    BURNT,
    COORDINATOR,
    DOUBTER,
    OPERATORS,
    PAYER,
    RIVAL,
    STAKE,
    TERMS,
    WORK,
    Party,
    World,
)

from deserve_ledger.calls import BeginBondRelease, BeginUnbond, SlashCoordinator, SlashNode, WithdrawBond, WithdrawStake


def gained(world: World, before: dict[str, int]) -> dict[str, int]:
    return {name: now - before[name] for name, now in world.balances().items() if now != before[name]}


@pytest.mark.parametrize("changes", [{"out_root": b"\3" * 32}, {"in_root": b"\3" * 32}, {"units": 641}])
def test_two_contents_for_one_work_cost_the_stake(world: World, changes: dict[str, int | bytes]) -> None:
    before = world.balances()
    done = world.submit(DOUBTER, world.contradiction(**changes))
    assert gained(world, before) == {"payer": 300, "doubter": 300}
    assert world.tokens(BURNT) == world.totals().burnt == STAKE - 600
    node = world.node(ACCUSED)
    assert (node.stake, node.slashed) == (0, True)
    assert ACCUSED.node_id not in world.auditors()
    assert done.events[-1].fields == {
        "nodeId": ACCUSED.node_id,
        "accuser": DOUBTER.address,
        "submitter": PAYER.address,
        "amount": STAKE,
        "burnt": STAKE - 600,
    }


def test_a_cheat_that_denounces_itself_loses_two_fifths_at_least(world: World) -> None:
    before = world.balances()
    world.submit(ACCUSED, world.contradiction())
    assert gained(world, before) == {"payer": 300, ACCUSED.name: 300}
    assert world.totals().burnt == STAKE - 600 >= 0.4 * STAKE


def test_where_the_work_is_of_no_job_its_share_is_burnt(world: World) -> None:
    before = world.balances()
    world.submit(DOUBTER, world.contradiction(replace(WORK, job_id=b"\1" * 32)))
    assert gained(world, before) == {"doubter": 300}
    assert world.totals().burnt == STAKE - 300


@pytest.mark.parametrize("waits_s", [0, TERMS.unbonding_s + 1])
def test_a_stake_that_unbonds_is_lost_until_it_has_left(world: World, waits_s: int) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(waits_s)
    world.submit(DOUBTER, world.contradiction())
    assert world.node(ACCUSED).stake == 0
    world.pass_s(TERMS.unbonding_s)
    before = world.balances()
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    assert world.balances() == before


def test_a_stake_that_has_left_is_not_lost(world: World) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(TERMS.unbonding_s)
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    with pytest.raises(Refused, match="NothingStaked"):
        world.submit(DOUBTER, world.contradiction())


def test_a_stake_is_lost_once(world: World) -> None:
    world.submit(DOUBTER, world.contradiction())
    with pytest.raises(Refused, match="NothingStaked"):
        world.submit(DOUBTER, world.contradiction())


def test_the_same_receipt_twice_proves_nothing(world: World) -> None:
    call = world.contradiction()
    with pytest.raises(Refused, match="SameContent"):
        world.submit(DOUBTER, replace(call, second=call.first, second_signature=call.first_signature))


@pytest.mark.parametrize("part", ["ring", "epoch", "lease", "attempt", "stage", "chunk", "job_id"])
def test_receipts_of_two_works_prove_nothing(world: World, part: str) -> None:
    # An honest node that computes a row again signs another work id each time.
    value = getattr(WORK, part)
    other = replace(WORK, **{part: value + 1 if isinstance(value, int) else b"\7" * 32})
    one, two = world.receipt(WORK), world.receipt(other, out_root=b"\3" * 32)
    by = ACCUSED.receipts
    for work in (WORK, other):
        call = SlashNode(work, one, world.sign(by, one), two, world.sign(by, two))
        with pytest.raises(Refused, match="WrongWork"):
            world.submit(DOUBTER, call)


def test_the_work_must_be_what_the_receipts_are_of(world: World) -> None:
    # Otherwise an accuser would name a job of its own and take the submitter's share.
    call = world.contradiction()
    with pytest.raises(Refused, match="WrongWork"):
        world.submit(DOUBTER, replace(call, work=replace(WORK, job_id=b"\1" * 32)))


def test_receipts_of_two_nodes_prove_nothing(world: World) -> None:
    one, two = world.receipt(), world.receipt(operator=OPERATORS[1], out_root=b"\3" * 32)
    by = ACCUSED.receipts
    with pytest.raises(Refused, match="WrongNode"):
        world.submit(DOUBTER, SlashNode(WORK, one, world.sign(by, one), two, world.sign(by, two)))


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize("by", [DOUBTER, ACCUSED, OPERATORS[1].receipts])
def test_both_receipts_are_signed_by_the_nodes_receipt_key(world: World, place: str, by: Party) -> None:
    call = world.contradiction()
    forged = world.sign(by, getattr(call, place))
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, replace(call, **{f"{place}_signature": forged}))


def test_a_node_that_there_is_not_loses_nothing(world: World) -> None:
    nobody = Party("nobody")
    one, two = world.receipt(operator=nobody), world.receipt(operator=nobody, out_root=b"\3" * 32)
    by = nobody.receipts
    with pytest.raises(Refused, match="UnknownNode"):
        world.submit(DOUBTER, SlashNode(WORK, one, world.sign(by, one), two, world.sign(by, two)))


@pytest.mark.parametrize("changes", [{"cumulative": 11}, {"receipts_root": b"\2" * 32}])
def test_two_contents_under_one_number_cost_the_bond(world: World, changes: dict[str, int | bytes]) -> None:
    before = world.balances()
    done = world.submit(DOUBTER, world.double_credit(**changes))
    assert gained(world, before) == {"doubter": 299, ACCUSED.name: 299}
    assert world.tokens(BURNT) == world.totals().burnt == 999 - 598
    assert (world.coordinator().bond, world.coordinator().slashed) == (0, True)
    assert done.events[-1].fields == {
        "coordinator": COORDINATOR.address,
        "accuser": DOUBTER.address,
        "injured": ACCUSED.address,
        "amount": 999,
        "burnt": 401,
    }
    with pytest.raises(Refused, match="NothingBonded"):
        world.submit(DOUBTER, world.double_credit(**changes))


def test_where_the_credits_are_to_no_node_its_share_is_burnt(world: World) -> None:
    one = replace(world.credit(10).credit, node_id=b"\1" * 32)
    two = replace(one, cumulative=11)
    world.submit(DOUBTER, SlashCoordinator(one, world.sign(COORDINATOR, one), two, world.sign(COORDINATOR, two)))
    assert world.totals().burnt == 999 - 299


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seq": 2, "cumulative": 11}, "WrongSeq"),
        ({"node_id": OPERATORS[1].node_id}, "WrongNode"),
        ({"coordinator": RIVAL.address}, "WrongCoordinator"),
        ({"seq": 1}, "SameContent"),
    ],
)
def test_credits_that_both_hold_prove_nothing(world: World, changes: dict[str, int | bytes], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        world.submit(DOUBTER, world.double_credit(**changes))


@pytest.mark.parametrize("place", ["first", "second"])
def test_both_credits_are_signed_by_the_coordinator(world: World, place: str) -> None:
    call = world.double_credit()
    forged = world.sign(RIVAL, getattr(call, place))
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, replace(call, **{f"{place}_signature": forged}))


def test_a_bond_that_is_being_released_is_lost_and_one_that_left_is_not(world: World) -> None:
    world.submit(COORDINATOR, BeginBondRelease())
    world.pass_s(TERMS.unbonding_s)
    with world.undone():
        world.submit(DOUBTER, world.double_credit())
        before = world.balances()
        world.submit(COORDINATOR, WithdrawBond())
        assert world.balances() == before
    world.submit(COORDINATOR, WithdrawBond())
    with pytest.raises(Refused, match="NothingBonded"):
        world.submit(DOUBTER, world.double_credit())


def test_what_a_slashed_coordinator_owes_is_still_paid(world: World) -> None:
    world.submit(DOUBTER, world.double_credit())
    before = world.balance(ACCUSED)
    world.submit(ACCUSED, world.credit(10))
    assert world.balance(ACCUSED) == before + 10
