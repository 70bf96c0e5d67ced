"""A node and its debtor: only what the coordinator signed counts, it is on disk first, and unpaid work ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import debts
import pytest
from debts import DEBTOR, NODE, note, receipt, work_id

from deserve_ledger.errors import ChainUnreachable
from deserve_ledger.keystore import Key
from deserve_ledger.prices import Prices
from deserve_ledger.records import Reservation
from deserve_node.wallet.engagement import Engagement
from deserve_node.wallet.errors import CreditForged, CreditRefused, Unpaid
from deserve_node.wallet.store import Earned, WalletStore


def again(engagement: Engagement, store: WalletStore, vault) -> Engagement:
    """The same node after a restart."""
    return Engagement(DEBTOR, store, Prices(1_000_000, 2_000_000), vault)


def serve(engagement: Engagement, *chunks: int, units: int = 100) -> None:
    engagement.worked([receipt(n, decode=units) for n in chunks], [work_id(n) for n in chunks], [()] * len(chunks))


async def test_credits_add_up_and_outlive_a_restart(engagement, store, vault):
    await engagement.credit(note(100, 1))
    await engagement.credit(note(250, 2, held=40))
    for one in (engagement, again(engagement, store, vault)):
        assert (one.credited, one.held) == (250, 40)
    newest = store.newest(DEBTOR)
    assert (newest.credit.cumulative, newest.credit.seq) == (250, 2)


async def test_a_credit_that_comes_again_changes_nothing(engagement, store):
    serve(engagement, 0)
    for _ in range(2):
        await engagement.credit(note(100, 1, covers=(work_id(0),)))
    assert (engagement.credited, engagement.unpaid) == (100, 0)
    await engagement.credit(note(200, 2))
    await engagement.credit(note(100, 1))
    assert engagement.credited == 200


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (note(300, 9, key=Key.of(b"\x12" * 32)), "signature: made by"),
        (dataclasses.replace(note(300, 9), cumulative=301), "signature: made by"),
        (dataclasses.replace(note(300, 9), receipts_root=b"\1" * 32), "signature: made by"),
        (dataclasses.replace(note(300, 9), signature=bytes(65)), "signature: "),
        (dataclasses.replace(note(300, 9), coordinator=b"\1" * 20), "coordinator: "),
        (dataclasses.replace(note(300, 9), node_id=b"\1" * 32), "node_id: "),
        (note(99, 9), "cumulative: 100 under number 5, and 99 under 9"),
        (note(300, 4), "cumulative: 300 under number 4, and 100 under 5"),
    ],
)
async def test_a_credit_that_cannot_be_meant_is_refused_and_named(engagement, store, bad, reason):
    await engagement.credit(note(100, 5))
    with pytest.raises(CreditRefused, match=reason):
        await engagement.credit(bad)
    assert engagement.credited == 100
    assert store.fraud(DEBTOR) is None
    await engagement.credit(note(300, 9))


async def test_a_credit_that_comes_late_pays_for_what_it_covers(engagement, store):
    serve(engagement, 0, 1)
    await engagement.credit(note(200, 3, held=7))
    for late in (note(90, 1, covers=(work_id(0),)), note(200, 2, covers=(work_id(1),))):
        await engagement.credit(late)
    assert (engagement.credited, engagement.held, engagement.unpaid) == (200, 7, 0)
    assert store.held(DEBTOR) == 7
    with pytest.raises(CreditForged):
        await engagement.credit(note(80, 1))


async def test_two_contents_under_one_number_are_kept_as_proof(engagement, store, vault):
    await engagement.look()
    await engagement.credit(note(100, 1))
    await engagement.credit(note(200, 2))
    with pytest.raises(CreditForged, match="two contents under number 1"):
        await engagement.credit(note(90, 1))
    first, second = store.fraud(DEBTOR)
    assert (first.credit.cumulative, second.credit.cumulative, first.credit.seq) == (100, 90, 1)
    for one in (engagement, again(engagement, store, vault)):
        assert "two contents" in one.fault()
    assert engagement.credited == 200  # which can still be collected


async def test_the_second_unpaid_chunk_stops_the_computing_thread_until_it_is_paid(engagement):
    await engagement.look()
    clearance = engagement.new_clearance()
    serve(engagement, 0)
    clearance.wait()
    serve(engagement, 1)
    assert engagement.alarm == "2 chunks are unpaid, at most 1 may be"
    went_on = threading.Event()
    thread = threading.Thread(target=lambda: (clearance.wait(), went_on.set()))
    thread.start()
    assert not went_on.is_set()
    await engagement.credit(note(200, 1, covers=(work_id(0),)))
    thread.join(10)
    assert went_on.is_set()
    assert engagement.alarm is None
    assert engagement.alarms == 1


async def test_a_node_that_is_not_paid_leaves_with_the_reason(engagement, clock):
    await engagement.look()
    serve(engagement, 0, 1)
    clock.now_s += 1.0  # before there was a ring to leave
    watching = asyncio.create_task(engagement.watch())
    await asyncio.wait([watching], timeout=0.05)
    assert not watching.done()
    assert await engagement.overdue() is None
    clock.now_s += 1.0
    with pytest.raises(Unpaid, match="stops serving: 2 chunks are unpaid"):
        await watching
    assert "2 chunks are unpaid" in await engagement.overdue()
    await engagement.credit(note(200, 1, covers=(work_id(0),)))
    assert await engagement.overdue() is None


async def test_a_node_that_is_paid_meanwhile_stays(engagement, clock):
    await engagement.look()
    serve(engagement, 0, 1)
    await engagement.credit(note(200, 1, covers=(work_id(0), work_id(1))))
    clock.now_s += 1.0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await engagement.watch()


async def test_the_reservation_on_the_ledger_bounds_what_is_done_on_trust(engagement, vault):
    vault.reservation_here = Reservation(amount=400)
    await engagement.look()
    assert engagement.fault() is None
    serve(engagement, 0)  # 200 base units, and the next chunk may take as much
    assert engagement.fault() is None
    vault.reservation_here = Reservation(amount=400, releasing=1)
    await engagement.look()
    assert "the reservation is used up: 199 base units are left, a chunk may take 200" in engagement.alarm
    vault.reservation_here = Reservation(amount=500, releasing=1)
    await engagement.look()
    assert engagement.alarm is None


async def test_a_ledger_that_does_not_answer_is_an_alarm_only_after_a_while(engagement, vault, clock):
    assert "could not be read" in engagement.fault()
    await engagement.look()
    vault.error = ChainUnreachable("no answer")
    clock.now_s += 299.0
    await engagement.look()
    assert engagement.alarm is None
    clock.now_s += 2.0
    await engagement.look()
    assert "could not be read" in engagement.alarm


async def test_who_works_for_nothing_is_never_stopped(store, vault):
    vault.reservation_here = Reservation()
    engagement = Engagement(DEBTOR, store, Prices(0, 0), vault)
    serve(engagement, 0, 1, 2, 3)
    assert engagement.fault() is None


async def test_a_new_membership_frees_whoever_waits_in_the_old(engagement):
    await engagement.look()
    clearance = engagement.new_clearance()
    serve(engagement, 0, 1)
    engagement.new_clearance()
    clearance.wait()


async def test_work_that_nobody_covered_is_remembered(engagement, store, vault):
    engagement.worked([receipt(0, prefill=7, decode=3), receipt(1, decode=50)], [work_id(0), work_id(1)], [(), ()])
    assert store.earned(DEBTOR) == Earned((7 * 1 + 53 * 2) * 10**6, 7, 53)
    await engagement.credit(note(100, 1, covers=(work_id(1),)))
    assert again(engagement, store, vault).unpaid == 7 + 3 * 2
    assert store.earned(DEBTOR) == Earned((7 * 1 + 53 * 2) * 10**6, 7, 53)


def test_debtors_are_told_apart(store):
    other = dataclasses.replace(DEBTOR, coordinator=b"\1" * 20)
    store.keep_works(DEBTOR, [], Earned(5, 1, 1))
    store.keep_works(other, [], Earned(7, 1, 1))
    assert store.debtors() == [DEBTOR, other]
    assert (store.earned(DEBTOR).micros, store.earned(other).micros) == (5, 7)


def test_the_file_is_its_owners_alone(store, tmp_path):
    assert (tmp_path / "wallet.sqlite").stat().st_mode & 0o077 == 0


KEEPER = """
import asyncio, sys
from pathlib import Path
from debts import DEBTOR, Vault, note, work_id
from deserve_ledger.prices import Prices
from deserve_node.wallet.engagement import Engagement
from deserve_node.wallet.store import WalletStore
engagement = Engagement(DEBTOR, WalletStore(Path(sys.argv[1])), Prices(1, 1), Vault())
async def main():
    for seq in range(1, 10**9):
        await engagement.credit(note(seq * 10, seq))
        print(seq, flush=True)
asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    file = tmp_path / "killed.sqlite"
    path = os.pathsep.join([str(Path(debts.__file__).parent), *sys.path])
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, file], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    told = 0
    while told < 25:
        told = int(keeper.stdout.readline())
    keeper.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in keeper.stdout if line.endswith("\n"))])
    keeper.stdout.close()
    keeper.wait()
    store = WalletStore(file)
    newest = store.newest(DEBTOR).credit
    assert newest.seq in (told, told + 1)
    assert newest.cumulative == newest.seq * 10
    assert (newest.coordinator, newest.node_id) == (DEBTOR.coordinator, NODE)
    store.close()
