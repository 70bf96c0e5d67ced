"""A job's escrow: drawn against vouchers up to its budget, and what is left goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evm import Refused
from world import BUDGET, COORDINATOR, DOUBTER, JOB, PAYER, RIVAL, SIGNER, STRANGER, TERMS, Party, World

from deserve_ledger import identifiers
from deserve_ledger.calls import OpenJob, Refund
from deserve_ledger.records import JobRecord

YEAR_S = 365 * 86400


def opening(world: World, **changes: int | bytes) -> OpenJob:
    deadline_s = world.evm.now_s + 60
    return replace(OpenJob(b"\1" * 32, COORDINATOR.address, SIGNER.address, 100, deadline_s), **changes)  # type: ignore[arg-type]


def test_a_job_is_its_payers_money_set_aside(world: World) -> None:
    before = world.balance(PAYER)
    call = opening(world)
    done = world.submit(PAYER, call)
    job_id = identifiers.job_id(PAYER.address, call.salt)
    opened = JobRecord(PAYER.address, COORDINATOR.address, SIGNER.address, 100, 0, call.deadline_s)
    assert world.job(job_id) == opened
    assert world.balance(PAYER) == before - 100
    assert done.events[0].fields == {
        "jobId": job_id,
        "payer": PAYER.address,
        "coordinator": COORDINATOR.address,
        "signer": SIGNER.address,
        "budget": 100,
        "deadline": call.deadline_s,
    }


def test_a_salt_is_used_once_by_each_payer(world: World) -> None:
    world.submit(PAYER, opening(world))
    with pytest.raises(Refused, match="JobExists"):
        world.submit(PAYER, opening(world))
    world.submit(DOUBTER, opening(world))


def test_a_budget_must_be_there(world: World) -> None:
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(PAYER, opening(world, budget=world.balance(PAYER) + 1))


@pytest.mark.parametrize("field", ["coordinator", "signer"])
def test_a_job_names_its_parties(world: World, field: str) -> None:
    with pytest.raises(Refused, match="ZeroAddress"):
        world.submit(PAYER, opening(world, **{field: bytes(20)}))


@pytest.mark.parametrize(("ahead_s", "taken"), [(0, False), (1, True), (YEAR_S, True), (YEAR_S + 1, False)])
def test_a_deadline_is_ahead_and_within_a_year(world: World, ahead_s: int, taken: bool) -> None:
    call = opening(world, deadline_s=world.evm.now_s + ahead_s)
    if taken:
        world.submit(PAYER, call)
        return
    with pytest.raises(Refused, match="BadDeadline"):
        world.submit(PAYER, call)


@pytest.mark.parametrize("by", [SIGNER, PAYER])
def test_a_voucher_pays_the_coordinator_whoever_brings_it(world: World, by: Party) -> None:
    before = world.balance(COORDINATOR)
    done = world.submit(STRANGER, world.voucher(120, by=by))
    assert world.balance(COORDINATOR) == before + 120
    assert world.job().drawn == 120
    assert done.events[0].fields == {
        "jobId": JOB,
        "coordinator": COORDINATOR.address,
        "amount": 120,
        "seq": 1,
        "resultsRoot": b"\1" * 32,
    }


def test_vouchers_add_up_to_the_newest_and_older_ones_pay_zero(world: World) -> None:
    before = world.balance(COORDINATOR)
    for cumulative, drawn in ((100, 100), (100, 100), (40, 100), (250, 250), (0, 250), (BUDGET, BUDGET)):
        world.submit(COORDINATOR, world.voucher(cumulative))
        assert world.job().drawn == drawn
        assert world.balance(COORDINATOR) == before + drawn
    assert world.totals().undrawn == 0


def test_no_voucher_draws_more_than_the_budget(world: World) -> None:
    with pytest.raises(Refused, match="OverBudget"):
        world.submit(COORDINATOR, world.voucher(BUDGET + 1))
    assert world.job().drawn == 0


@pytest.mark.parametrize("by", [COORDINATOR, STRANGER, RIVAL])
def test_a_voucher_by_anybody_else_is_refused(world: World, by: Party) -> None:
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(COORDINATOR, world.voucher(10, by=by))


def test_a_voucher_of_no_job_is_refused(world: World) -> None:
    with pytest.raises(Refused, match="UnknownJob"):
        world.submit(COORDINATOR, world.voucher(0, job_id=b"\1" * 32))


@pytest.mark.parametrize("changed", ["twin", "v", "short", "long", "empty", "zero"])
def test_a_malformed_signature_is_refused(world: World, changed: str) -> None:
    call = world.voucher(10)
    r, s, v = call.signature[:32], call.signature[32:64], call.signature[64]
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    twin = r + (order - int.from_bytes(s, "big")).to_bytes(32, "big") + bytes([55 - v])
    signature = {
        "twin": twin,
        "v": r + s + bytes([v - 27]),
        "short": r + s,
        "long": call.signature + b"\0",
        "empty": b"",
        "zero": bytes(64) + b"\x1b",
    }[changed]
    with pytest.raises(Refused, match="InvalidSignature"):
        world.submit(COORDINATOR, replace(call, signature=signature))


def test_anybody_refunds_an_overdue_job_and_nobody_before(world: World) -> None:
    world.submit(COORDINATOR, world.voucher(1000))
    before = world.balance(PAYER)
    world.pass_s(3600 + TERMS.refund_grace_s)
    for party in (PAYER, STRANGER, SIGNER):
        with pytest.raises(Refused, match="TooEarly"):
            world.submit(party, Refund(JOB))
    world.submit(STRANGER, world.voucher(1001))  # the grace is the coordinator's
    world.pass_s(1)
    done = world.submit(STRANGER, Refund(JOB))
    assert done.events[0].fields == {"jobId": JOB, "payer": PAYER.address, "amount": BUDGET - 1001}
    assert world.balance(PAYER) == before + BUDGET - 1001
    assert world.job().refunded


def test_a_coordinator_refunds_at_once(world: World) -> None:
    before = world.balance(PAYER)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(RIVAL, Refund(JOB))
    world.submit(COORDINATOR, Refund(JOB))
    assert world.balance(PAYER) == before + BUDGET


def test_after_the_refund_nothing_is_drawn_or_refunded(world: World) -> None:
    world.submit(COORDINATOR, Refund(JOB))
    after = world.balances()
    with pytest.raises(Refused, match="JobClosed"):
        world.submit(COORDINATOR, world.voucher(10))
    with pytest.raises(Refused, match="JobClosed"):
        world.submit(COORDINATOR, Refund(JOB))
    assert world.balances() == after


def test_a_job_that_was_never_opened_is_not_refunded(world: World) -> None:
    with pytest.raises(Refused, match="UnknownJob"):
        world.submit(COORDINATOR, Refund(b"\1" * 32))
