"""The same backend on somebody else's chain: what works on ours is not owed to ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from anvil import AnvilMissing, anvil_running

from deserve_ledger.calls import Deposit, OpenJob, Refund, Withdraw
from deserve_ledger.deployment import Deployment
from deserve_ledger.errors import Refused, Reorganised, Unsettled
from deserve_ledger.evm.sender import Pace


@pytest.fixture(scope="module")
def _anvil(put_ledger_on) -> Iterator[tuple[str, Deployment]]:
    try:
        with anvil_running() as url:
            yield url, asyncio.run(put_ledger_on(url))
    except AnvilMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def anvil(_anvil, development_chain):
    async with development_chain(*_anvil) as chain:
        yield chain


async def test_calls_cost_the_same_gas_as_on_our_chain(anvil, chain):
    async def gas(on) -> list[int]:
        ledger = await on.ledger(1)
        deadline = await ledger.now_s() + 600
        calls = [
            Deposit(1000),
            OpenJob(bytes(32), bytes([1]) * 20, bytes([2]) * 20, 600, deadline),
            Withdraw(100),
            Withdraw(300),
        ]
        return [(await ledger.submit(call)).gas for call in calls]

    assert await gas(anvil) == await gas(chain)


async def test_a_refusal_has_the_contracts_name_there_too(anvil):
    ledger = await anvil.ledger(2)
    for call, reason in [(Withdraw(1), "InsufficientBalance"), (Refund(bytes(32)), "UnknownJob")]:
        with pytest.raises(Refused) as refused:
            await ledger.submit(call)
        assert refused.value.reason == reason


async def test_one_that_waits_is_replaced_by_a_dearer_one(anvil, tmp_path):
    ledger = await anvil.ledger(3, state=tmp_path, pace=Pace(poll_s=0.02, bump_after_s=0.2, give_up_after_s=1))
    await ledger.submit(Deposit(50))
    nonce = anvil.nonce(ledger.account)
    anvil.ask("evm_setAutomine", False)
    with pytest.raises(Unsettled):
        await ledger.submit(Withdraw(20))
    waiting = anvil.ask("eth_getBlockByNumber", "pending", True)["transactions"]
    (entry,) = ledger._sender.outbox.undelivered()
    attempts = ledger._sender.outbox.attempts(entry)
    assert len(attempts) > 2
    assert [one["hash"] for one in waiting] == [f"0x{attempts[-1].hash.hex()}"]
    anvil.ask("evm_mine")
    settled = await ledger.submit(Withdraw(20))
    assert settled.reference == attempts[-1].hash
    assert await ledger.balance(ledger.account) == 30
    assert anvil.nonce(ledger.account) == nonce + 1


async def test_a_reorganisation_is_told_and_the_call_put_back(anvil, tmp_path):
    ledger = await anvil.ledger(4, state=tmp_path)
    await ledger.submit(Deposit(7))
    seen = await ledger.events(-1)
    snapshot = anvil.ask("evm_snapshot")
    await ledger.submit(Withdraw(3))
    (gone,) = await ledger.events(seen[-1].position)
    assert anvil.ask("evm_revert", snapshot)
    assert await ledger.balance(ledger.account) == 7
    anvil.ask("evm_mine")
    with pytest.raises(Reorganised) as told:
        await ledger.events(gone.position)
    assert told.value.position < gone.position
    await ledger.submit(Withdraw(1))
    assert await ledger.balance(ledger.account) == 3
