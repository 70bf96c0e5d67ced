"""What vouches for a coordinator: put up at once, taken back slowly."""

from __future__ import annotations

import pytest
from evm import Refused
from world import COORDINATOR, RIVAL, TERMS, World

from deserve_ledger.calls import AddBond, BeginBondRelease, WithdrawBond
from deserve_ledger.records import CoordinatorRecord


def test_a_bond_is_put_up_and_taken_back_after_unbonding(world: World) -> None:
    before = world.balance(COORDINATOR)
    assert world.coordinator() == CoordinatorRecord(999)
    world.submit(COORDINATOR, AddBond(1))
    with pytest.raises(Refused, match="NotUnbonding"):
        world.submit(COORDINATOR, WithdrawBond())
    done = world.submit(COORDINATOR, BeginBondRelease())
    ends = world.evm.now_s + TERMS.unbonding_s
    assert world.coordinator() == CoordinatorRecord(1000, ends)
    assert done.events[0].fields == {"coordinator": COORDINATOR.address, "releasesAt": ends}
    world.pass_s(TERMS.unbonding_s - 1)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(COORDINATOR, WithdrawBond())
    world.pass_s(1)
    done = world.submit(COORDINATOR, WithdrawBond())
    assert done.events[0].fields == {"coordinator": COORDINATOR.address, "amount": 1000}
    assert world.balance(COORDINATOR) == before + 999
    assert world.coordinator() == CoordinatorRecord()
    assert world.totals().bonds == 0


def test_a_release_begun_early_does_not_free_a_bond_that_comes_later(world: World) -> None:
    world.submit(COORDINATOR, BeginBondRelease())
    with pytest.raises(Refused, match="AlreadyUnbonding"):
        world.submit(COORDINATOR, BeginBondRelease())
    with pytest.raises(Refused, match="AlreadyUnbonding"):
        world.submit(COORDINATOR, AddBond(10_000))


def test_a_coordinator_may_begin_again(world: World) -> None:
    world.submit(COORDINATOR, BeginBondRelease())
    world.pass_s(TERMS.unbonding_s)
    world.submit(COORDINATOR, WithdrawBond())
    world.submit(COORDINATOR, AddBond(5))
    assert world.coordinator() == CoordinatorRecord(5)
    with pytest.raises(Refused, match="NotUnbonding"):
        world.submit(COORDINATOR, WithdrawBond())


def test_only_what_is_there_is_bonded_or_released(world: World) -> None:
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(RIVAL, AddBond(world.balance(RIVAL) + 1))
    with pytest.raises(Refused, match="NothingBonded"):
        world.submit(RIVAL, BeginBondRelease())


def test_a_slashed_coordinator_has_no_second_bond(world: World) -> None:
    world.submit(RIVAL, world.double_credit())
    with pytest.raises(Refused, match="CoordinatorIsSlashed"):
        world.submit(COORDINATOR, AddBond(1))
    with pytest.raises(Refused, match="NothingBonded"):
        world.submit(COORDINATOR, BeginBondRelease())
