"""What was signed for one chain, contract, job, epoch, stage or purpose is worth nothing in another's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from evm import Refused
from world import (
    ACCUSED,
    BUDGET,
    COORDINATOR,
    DOUBTER,
    JOB,
    OPERATORS,
    PAYER,
    SIGNER,
    STRANGER,
    WORK,
    World,
    make_world,
    settle_in,
)

from deserve_ledger import identifiers
from deserve_ledger.calls import Call, ClaimCredit, OpenJob, RedeemVoucher
from deserve_ledger.contracts import Artifact, load_artifact
from deserve_ledger.eip712 import Domain
from deserve_ledger.messages import BindNode, Credit, Voucher

SIGNED: dict[str, Callable[[World], Call]] = {
    "voucher": lambda world: world.voucher(10),
    "credit": lambda world: world.credit(10),
    "contradiction": lambda world: world.contradiction(),
    "double credit": lambda world: world.double_credit(),
    "challenge": lambda world: world.doubt(),
    "binding": lambda world: world.bind(STRANGER),
}


@pytest.fixture
def elsewhere(world: World) -> Iterator[Callable[[Domain], World]]:
    """Lets everybody sign for another domain."""
    own = world.domain

    def sign_for(domain: Domain) -> World:
        world.domain = domain
        return world

    yield sign_for
    world.domain = own


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("other", ["chain", "contract", "name", "version"])
def test_another_domains_signatures_are_refused(
    world: World, elsewhere: Callable[[Domain], World], kind: str, other: str
) -> None:
    domain = {
        "chain": replace(world.domain, chain_id=2),
        "contract": replace(world.domain, contract=world.token.address),
        "name": replace(world.domain, name="deserve"),
        "version": replace(world.domain, version="2"),
    }[other]
    before = world.balances()
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(STRANGER, SIGNED[kind](elsewhere(domain)))
    assert world.balances() == before


def test_what_another_chain_has_settled_is_not_settled_here(artifact: Artifact) -> None:
    # The same accounts, the same contract address, another chain.
    here = make_world(artifact)
    there = settle_in(World(artifact, load_artifact("TestToken"), 10**12, chain_id=2))
    assert here.ledger.address == there.ledger.address
    for make in (World.voucher, World.credit):
        there.submit(STRANGER, make(there, 10))
        with pytest.raises(Refused, match="WrongSigner"):
            there.submit(STRANGER, make(here, 20))


def test_a_voucher_draws_on_its_own_job(world: World) -> None:
    salt = b"\1" * 32
    world.submit(PAYER, OpenJob(salt, COORDINATOR.address, SIGNER.address, BUDGET, world.evm.now_s + 60))
    other = identifiers.job_id(PAYER.address, salt)
    call = world.voucher(10)
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(COORDINATOR, replace(call, voucher=replace(call.voucher, job_id=other)))


@pytest.mark.parametrize("field", ["cumulative", "seq", "results_root"])
def test_nothing_in_a_voucher_is_changed_afterwards(world: World, field: str) -> None:
    call = world.voucher(10)
    value = b"\7" * 32 if field == "results_root" else 11
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(COORDINATOR, replace(call, voucher=replace(call.voucher, **{field: value})))


@pytest.mark.parametrize("field", ["coordinator", "node_id", "cumulative", "seq", "receipts_root"])
def test_nothing_in_a_credit_is_changed_afterwards(world: World, field: str) -> None:
    changes = {
        "coordinator": DOUBTER.address,
        "node_id": OPERATORS[1].node_id,
        "cumulative": 11,
        "seq": 2,
        "receipts_root": b"\7" * 32,
    }
    call = world.credit(10)
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(ACCUSED, replace(call, credit=replace(call.credit, **{field: changes[field]})))


@pytest.mark.parametrize("field", ["in_root", "out_root", "units"])
@pytest.mark.parametrize("place", ["first", "second"])
def test_nothing_in_a_receipt_is_changed_afterwards(world: World, place: str, field: str) -> None:
    call = world.contradiction()
    value = 9 if field == "units" else b"\7" * 32
    changed = replace(getattr(call, place), **{field: value})
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, replace(call, **{place: changed}))


def test_a_receipt_of_another_stage_challenges_nothing_here(world: World) -> None:
    call = world.doubt()
    for work in (replace(WORK, stage=2), replace(WORK, epoch=2), replace(WORK, job_id=b"\1" * 32)):
        with pytest.raises(Refused, match="WrongWork"):
            world.submit(DOUBTER, replace(call, work=work))
        moved = replace(call, work=work, receipt=replace(call.receipt, work_id=work.work_id))
        with pytest.raises(Refused, match="WrongSigner"):
            world.submit(DOUBTER, moved)


def test_a_signature_of_one_kind_is_none_of_another(world: World) -> None:
    # The coordinator signs a voucher-like credit; nobody can read it as the other type.
    credit = Credit(COORDINATOR.address, ACCUSED.node_id, 10, 1, b"\1" * 32)
    voucher = Voucher(JOB, 10, 1, b"\1" * 32)
    binding = BindNode(STRANGER.address, STRANGER.peer_key, 0)
    for message in (voucher, binding):
        with pytest.raises(Refused, match="WrongSigner"):
            world.submit(ACCUSED, ClaimCredit(credit, world.sign(COORDINATOR, message)))
    for message in (credit, binding):
        with pytest.raises(Refused, match="WrongSigner"):
            world.submit(COORDINATOR, RedeemVoucher(voucher, world.sign(SIGNER, message)))


@pytest.mark.parametrize("kind", ["voucher", "credit"])
def test_what_was_paid_is_paid_once(world: World, kind: str) -> None:
    call = SIGNED[kind](world)
    world.submit(STRANGER, call)
    after = world.balances()
    for _ in range(3):
        world.submit(STRANGER, call)
    assert world.balances() == after
