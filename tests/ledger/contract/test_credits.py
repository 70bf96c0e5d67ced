"""Nodes are paid out of what was reserved for them, by root or by signature, once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from evm import Refused
from world import ACCUSED, COORDINATOR, OPERATORS, RESERVED, RIVAL, STRANGER, TERMS, Party, World

from deserve_ledger.calls import Claim, PostRoot, Release, RequestRelease, Reserve
from deserve_ledger.merkle import MerkleTree, claim_leaf
from deserve_ledger.records import Reservation


def claims(credits: dict[Party, int], epoch: int = 1, coordinator: Party = COORDINATOR) -> tuple[bytes, list[Claim]]:
    """A root over what each operator's node is owed, and the claims under it."""
    leaves = [claim_leaf(coordinator.address, epoch, party.node_id, owed) for party, owed in credits.items()]
    tree = MerkleTree(leaves)
    made = [
        Claim(coordinator.address, epoch, party.node_id, owed, tree.proof(index))
        for index, (party, owed) in enumerate(credits.items())
    ]
    return tree.root, made


def post(world: World, credits: dict[Party, int], epoch: int = 1) -> list[Claim]:
    root, made = claims(credits, epoch)
    world.submit(COORDINATOR, PostRoot(epoch, root))
    return made


def test_a_claim_pays_the_operator_whoever_brings_it(world: World) -> None:
    before = world.balance(ACCUSED)
    claim, *_ = post(world, dict.fromkeys(OPERATORS, 70))
    done = world.submit(STRANGER, claim)
    assert world.balance(ACCUSED) == before + 70
    assert world.reservation() == Reservation(RESERVED - 70, claimed=70)
    assert done.events[0].fields == {
        "coordinator": COORDINATOR.address,
        "nodeId": ACCUSED.node_id,
        "operator": ACCUSED.address,
        "amount": 70,
    }


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_every_node_of_a_root_claims(world: World, nodes: int) -> None:
    for operator in OPERATORS[1:]:
        world.submit(COORDINATOR, Reserve(operator.node_id, 100))
    before = world.balances()
    for claim in post(world, {operator: 10 + index for index, operator in enumerate(OPERATORS[:nodes])}):
        world.submit(STRANGER, claim)
    gained = [world.balance(operator) - before[operator.name] for operator in OPERATORS]
    assert gained == [10 + index if index < nodes else 0 for index in range(5)]


def test_a_second_claim_pays_zero(world: World) -> None:
    claim, *_ = post(world, {ACCUSED: 70})
    world.submit(ACCUSED, claim)
    after = world.balances()
    assert world.submit(ACCUSED, claim).events[0].fields["amount"] == 0
    assert world.balances() == after


def test_whatever_the_order_roots_and_credits_pay_the_largest_sum_once(world: World) -> None:
    calls = [
        post(world, {ACCUSED: 70}, epoch=1)[0],
        post(world, {ACCUSED: 120}, epoch=2)[0],
        world.credit(100),
        world.credit(50, seq=2),
    ]
    before = world.balance(ACCUSED)
    for order in itertools.permutations(calls):
        with world.undone():
            for call in order:
                world.submit(STRANGER, call)
            assert world.balance(ACCUSED) == before + 120
            assert world.reservation() == Reservation(RESERVED - 120, claimed=120)


def test_more_than_is_reserved_stays_owed_until_it_is(world: World) -> None:
    before = world.balance(ACCUSED)
    world.submit(ACCUSED, world.credit(RESERVED + 100))
    assert world.balance(ACCUSED) == before + RESERVED
    assert world.reservation() == Reservation(0, claimed=RESERVED)
    world.submit(COORDINATOR, Reserve(ACCUSED.node_id, 30))
    world.submit(ACCUSED, world.credit(RESERVED + 100))
    assert world.balance(ACCUSED) == before + RESERVED + 30


def test_one_nodes_reservation_pays_no_other_node(world: World) -> None:
    other = OPERATORS[1]
    before = world.balance(other)
    world.submit(other, world.credit(100, node_id=other.node_id))
    assert world.balance(other) == before
    assert world.reservation().amount == RESERVED


def test_one_coordinators_reservation_pays_no_other_coordinators_debts(world: World) -> None:
    before = world.balance(ACCUSED)
    world.submit(ACCUSED, world.credit(100, by=RIVAL, coordinator=RIVAL.address))
    assert world.balance(ACCUSED) == before


@pytest.mark.parametrize("by", [ACCUSED, RIVAL, STRANGER])
def test_only_the_coordinator_signs_its_credits(world: World, by: Party) -> None:
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(ACCUSED, world.credit(10, by=by))


def test_a_credit_or_claim_of_no_node_is_refused(world: World) -> None:
    nobody = Party("nobody")
    with pytest.raises(Refused, match="UnknownNode"):
        world.submit(STRANGER, world.credit(10, node_id=nobody.node_id))
    claim, *_ = post(world, {nobody: 10})
    with pytest.raises(Refused, match="UnknownNode"):
        world.submit(STRANGER, claim)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cumulative": 71}, "BadProof"),
        ({"node_id": OPERATORS[1].node_id}, "BadProof"),
        ({"proof": ()}, "BadProof"),
        ({"epoch": 2}, "UnknownRoot"),
        ({"coordinator": RIVAL.address}, "UnknownRoot"),
    ],
)
def test_a_claim_that_is_not_under_the_root_is_refused(world: World, change: dict[str, object], reason: str) -> None:
    claim, *_ = post(world, dict.fromkeys(OPERATORS, 70))
    with pytest.raises(Refused, match=reason):
        world.submit(ACCUSED, replace(claim, **change))  # type: ignore[arg-type]


def test_a_root_holds_for_its_coordinator_and_epoch_alone(world: World) -> None:
    root, (claim, *_) = claims({ACCUSED: 70})
    world.submit(COORDINATOR, PostRoot(2, root))
    world.submit(RIVAL, PostRoot(1, root))
    for changed in (replace(claim, epoch=2), replace(claim, coordinator=RIVAL.address)):
        with pytest.raises(Refused, match="BadProof"):
            world.submit(ACCUSED, changed)


def test_an_inner_node_is_no_leaf(world: World) -> None:
    made = post(world, dict.fromkeys(OPERATORS[:4], 70))
    with pytest.raises(Refused, match="BadProof"):
        world.submit(ACCUSED, replace(made[0], proof=made[0].proof[1:]))


def test_a_root_is_posted_once_an_epoch(world: World) -> None:
    done = world.submit(COORDINATOR, PostRoot(7, b"\1" * 32))
    assert done.events[0].fields == {"coordinator": COORDINATOR.address, "epoch": 7, "root": b"\1" * 32}
    assert world.ledger.read("rootOf", COORDINATOR.address, 7) == b"\1" * 32
    for root in (b"\1" * 32, b"\2" * 32):
        with pytest.raises(Refused, match="RootExists"):
            world.submit(COORDINATOR, PostRoot(7, root))
    with pytest.raises(Refused, match="ZeroRoot"):
        world.submit(COORDINATOR, PostRoot(8, bytes(32)))


def test_a_reservation_is_for_a_node_that_there_is(world: World) -> None:
    with pytest.raises(Refused, match="UnknownNode"):
        world.submit(COORDINATOR, Reserve(b"\1" * 32, 1))
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(COORDINATOR, Reserve(ACCUSED.node_id, world.balance(COORDINATOR) + 1))


def test_a_reservation_goes_back_after_a_delay_in_which_the_node_may_claim(world: World) -> None:
    before = world.balance(COORDINATOR)
    with pytest.raises(Refused, match="NothingToRelease"):
        world.submit(COORDINATOR, Release(ACCUSED.node_id))
    with pytest.raises(Refused, match="InsufficientReservation"):
        world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, RESERVED + 1))
    done = world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, 300))
    ends = world.evm.now_s + TERMS.release_delay_s
    assert done.events[0].fields["releasesAt"] == ends
    assert world.reservation() == Reservation(RESERVED, 300, ends)
    assert world.reservation().safe == 100
    world.pass_s(TERMS.release_delay_s - 1)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(COORDINATOR, Release(ACCUSED.node_id))
    world.submit(ACCUSED, world.credit(250))
    assert world.reservation() == Reservation(150, 150, ends, 250)
    world.pass_s(1)
    with pytest.raises(Refused, match="NothingToRelease"):
        world.submit(RIVAL, Release(ACCUSED.node_id))  # its own, of which there is none
    done = world.submit(COORDINATOR, Release(ACCUSED.node_id))
    assert done.events[0].fields["amount"] == 150
    assert world.balance(COORDINATOR) == before + 150
    assert world.reservation() == Reservation(0, claimed=250)


def test_what_is_reserved_later_is_not_released_with_what_was_announced_before(world: World) -> None:
    world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, RESERVED))
    world.submit(ACCUSED, world.credit(350))
    world.submit(COORDINATOR, Reserve(ACCUSED.node_id, 1000))
    world.pass_s(TERMS.release_delay_s)
    assert world.reservation().safe == 1000
    world.submit(COORDINATOR, Release(ACCUSED.node_id))
    assert world.reservation().amount == 1000


def test_a_new_request_replaces_the_old_one_and_waits_anew(world: World) -> None:
    world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, 300))
    world.pass_s(TERMS.release_delay_s)
    world.submit(COORDINATOR, RequestRelease(ACCUSED.node_id, 20))
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(COORDINATOR, Release(ACCUSED.node_id))
    world.pass_s(TERMS.release_delay_s)
    world.submit(COORDINATOR, Release(ACCUSED.node_id))
    assert world.reservation() == Reservation(RESERVED - 20)
