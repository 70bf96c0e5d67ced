"""A node is registered by its operator with its receipt key's consent, and leaves slowly."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evm import Refused
from world import ACCUSED, DOUBTER, OPERATORS, STAKE, STRANGER, TERMS, World

from deserve_ledger.calls import AddStake, BeginUnbond, WithdrawStake
from deserve_ledger.messages import BindNode
from deserve_ledger.records import NodeRecord


def test_a_registered_node_has_its_stake_and_is_an_auditor(world: World) -> None:
    before = world.balance(STRANGER)
    done = world.submit(STRANGER, world.bind(STRANGER, stake=5000, nonce=7))
    assert world.node(STRANGER) == NodeRecord(STRANGER.address, STRANGER.receipts.address, 5000)
    assert world.balance(STRANGER) == before - 5000
    assert world.auditors() == [*(operator.node_id for operator in OPERATORS), STRANGER.node_id]
    assert done.events[0].fields == {
        "nodeId": STRANGER.node_id,
        "operator": STRANGER.address,
        "peerKey": STRANGER.peer_key,
        "receiptKey": STRANGER.receipts.address,
        "stake": 5000,
        "nonce": 7,
    }


def test_a_node_id_is_used_once(world: World) -> None:
    with pytest.raises(Refused, match="NodeExists"):
        world.submit(ACCUSED, world.bind(ACCUSED, nonce=1))
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(TERMS.unbonding_s)
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    with pytest.raises(Refused, match="NodeExists"):
        world.submit(ACCUSED, world.bind(ACCUSED, nonce=2))


def test_the_smallest_stake_is_taken_and_less_is_not(world: World) -> None:
    with pytest.raises(Refused, match="StakeTooSmall"):
        world.submit(STRANGER, world.bind(STRANGER, stake=TERMS.min_stake - 1))
    world.submit(STRANGER, world.bind(STRANGER, stake=TERMS.min_stake))


def test_a_stake_must_be_there(world: World) -> None:
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(STRANGER, world.bind(STRANGER, stake=world.balance(STRANGER) + 1))


def test_a_receipt_key_must_agree_to_this_operator_and_peer(world: World) -> None:
    call = world.bind(STRANGER)
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, call)  # another operator
    for wrong in (replace(call, peer_key=b"\1" * 32), replace(call, nonce=1), replace(call, receipt_key=b"\1" * 20)):
        with pytest.raises(Refused, match="WrongSigner"):
            world.submit(STRANGER, wrong)
    by_another = world.sign(DOUBTER, BindNode(STRANGER.address, STRANGER.peer_key, 0))
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(STRANGER, replace(call, signature=by_another))


def test_more_stake_is_more_stake(world: World) -> None:
    done = world.submit(ACCUSED, AddStake(ACCUSED.node_id, 99))
    assert world.node(ACCUSED).stake == STAKE + 99
    assert done.events[0].fields == {"nodeId": ACCUSED.node_id, "operator": ACCUSED.address, "amount": 99}
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(ACCUSED, AddStake(ACCUSED.node_id, world.balance(ACCUSED) + 1))


@pytest.mark.parametrize("call", [AddStake(ACCUSED.node_id, 1), BeginUnbond(ACCUSED.node_id)])
def test_only_its_operator_decides_about_a_node(world: World, call: AddStake | BeginUnbond) -> None:
    with pytest.raises(Refused, match="NotOperator"):
        world.submit(DOUBTER, call)


def test_only_its_operator_takes_the_stake(world: World) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(TERMS.unbonding_s)
    with pytest.raises(Refused, match="NotOperator"):
        world.submit(DOUBTER, WithdrawStake(ACCUSED.node_id))


def test_a_stake_leaves_after_unbonding_and_not_a_second_sooner(world: World) -> None:
    with pytest.raises(Refused, match="NotUnbonding"):
        world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    before = world.balance(ACCUSED)
    done = world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    ends = world.evm.now_s + TERMS.unbonding_s
    assert world.node(ACCUSED).unbonds_at_s == done.events[0].fields["unbondsAt"] == ends
    world.pass_s(TERMS.unbonding_s - 1)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    world.pass_s(1)
    done = world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    assert done.events[0].fields == {"nodeId": ACCUSED.node_id, "operator": ACCUSED.address, "amount": STAKE}
    assert world.balance(ACCUSED) == before + STAKE
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    assert world.balance(ACCUSED) == before + STAKE


def test_there_is_no_way_back_from_unbonding(world: World) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    for call in (BeginUnbond(ACCUSED.node_id), AddStake(ACCUSED.node_id, 1)):
        with pytest.raises(Refused, match="AlreadyUnbonding"):
            world.submit(ACCUSED, call)


def test_a_slashed_node_is_out(world: World) -> None:
    world.submit(DOUBTER, world.contradiction())
    for call in (BeginUnbond(ACCUSED.node_id), AddStake(ACCUSED.node_id, 1)):
        with pytest.raises(Refused, match="NodeIsSlashed"):
            world.submit(ACCUSED, call)
    with pytest.raises(Refused, match="NodeExists"):
        world.submit(ACCUSED, world.bind(ACCUSED))


@pytest.mark.parametrize("leaver", [0, 2, 4])
def test_whoever_unbonds_leaves_the_list_of_auditors_and_nobody_else_does(world: World, leaver: int) -> None:
    world.submit(OPERATORS[leaver], BeginUnbond(OPERATORS[leaver].node_id))
    left = {operator.node_id for operator in OPERATORS} - {OPERATORS[leaver].node_id}
    assert len(world.auditors()) == 4
    assert set(world.auditors()) == left
    # The one that took its place finds its own way out.
    for operator in OPERATORS:
        if operator.node_id in left:
            world.submit(operator, BeginUnbond(operator.node_id))
    assert world.auditors() == []


def test_what_a_node_is_owed_is_paid_after_it_has_left(world: World) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(TERMS.unbonding_s)
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    before = world.balance(ACCUSED)
    world.submit(STRANGER, world.credit(30))
    assert world.balance(ACCUSED) == before + 30
