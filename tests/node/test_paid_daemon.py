"""A daemon that works for money: what it says of itself, for whom it works, what it keeps, and when it stops."""

from __future__ import annotations

import asyncio
import dataclasses

import aiohttp
import pytest
from debts import COORDINATOR, DOMAIN, receipt, work_id

from deserve_ledger.eip712 import sign
from deserve_ledger.keystore import Key
from deserve_ledger.messages import Credit
from deserve_ledger.prices import Prices
from deserve_ledger.records import Reservation
from deserve_network.control_messages import (
    Hello,
    LeaseRequest,
    Offer,
    Refused,
    RowsDone,
    RowsReturned,
    RowsStored,
    StageFailed,
    Welcome,
)
from deserve_network.money_messages import CreditNote, LedgerRef
from deserve_node.daemon import RefusedError
from deserve_node.http import StatusServer
from deserve_node.wallet.engagement import Patience
from deserve_node.wallet.wallet import Wallet

HERE = LedgerRef(DOMAIN.chain_id, DOMAIN.contract, COORDINATOR.address)
ENDLESS = 480


class OpenVault:
    def __init__(self) -> None:
        self.reserved = 10**6

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation:
        return Reservation(amount=self.reserved)


@pytest.fixture
def vault():
    return OpenVault()


@pytest.fixture
def wallet_of(tmp_path, vault):
    opened = []

    def open_wallet(identity, unpaid_s=0.4):
        key = Key.of(b"\x21" * 32)
        opened.append(
            Wallet.open(
                tmp_path,
                key,
                identity,
                b"\x0e" * 20,
                DOMAIN,
                Prices(10**6, 10**6),
                vault,
                patience=Patience(unpaid_s, 0.02, 60.0),
            )
        )
        return opened[-1]

    yield open_wallet
    for wallet in opened:
        wallet.close()


def credit_for(daemon, cumulative: int, seq: int, **more) -> CreditNote:
    node = daemon.engagement.debtor.node_id
    credit = Credit(COORDINATOR.address, node, cumulative, seq, bytes(32))
    signature = sign(COORDINATOR.secret, DOMAIN, credit)
    return CreditNote(COORDINATOR.address, node, cumulative, seq, bytes(32), signature, **more)


async def until(condition):
    """Wait for what shows in this process only."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_it_says_who_is_paid_only_where_somebody_pays(coordinator, start_node, wallet_of):
    coordinator.ledger = HERE
    node = await start_node(open_wallet=wallet_of)
    session = await coordinator.join()
    assert session.offer.account == node.daemon._wallet.account
    assert session.offer.prices.decode == 10**6
    free = await start_node()
    offer = (await coordinator.join()).offer
    assert (offer.account, offer.prices) == (None, None)
    assert free.daemon.engagement is None


@pytest.mark.parametrize("ledger", [None, LedgerRef(1, DOMAIN.contract, COORDINATOR.address)])
async def test_it_leaves_a_coordinator_that_does_not_pay_it(coordinator, start_node, wallet_of, ledger):
    node = await start_node(open_wallet=wallet_of)
    session = await coordinator.next_session()
    await session.hear(Hello)
    await session.tell(Welcome(1, coordinator.model, 0.05, ledger))
    assert (await session.hear(Refused, Offer)).field == "ledger"
    with pytest.raises(RefusedError, match="does not work for the coordinator"):
        await node.task


async def test_a_credit_is_kept_and_a_forged_one_ends_the_node(coordinator, start_node, wallet_of):
    coordinator.ledger = HERE
    node = await start_node(open_wallet=wallet_of)
    session = await coordinator.join()
    await until(lambda: node.daemon.engagement is not None)
    await session.tell(credit_for(node.daemon, 100, 1))
    await until(lambda: node.daemon.engagement.credited == 100)
    await session.tell(credit_for(node.daemon, 50, 1))
    with pytest.raises(RefusedError, match="two contents under number 1"):
        await node.task


async def test_a_credit_that_somebody_else_signed_ends_the_session_and_not_the_node(coordinator, start_node, wallet_of):
    coordinator.ledger = HERE
    node = await start_node(open_wallet=wallet_of)
    session = await coordinator.join()
    await until(lambda: node.daemon.engagement is not None)
    await session.tell(dataclasses.replace(credit_for(node.daemon, 100, 1), cumulative=101))
    await session.ended()
    session = await coordinator.join()
    await session.tell(credit_for(node.daemon, 100, 1))
    await until(lambda: node.daemon.engagement.credited == 100)


async def test_an_unpaid_node_stops_computing_alarms_and_leaves_the_ring(coordinator, start_node, wallet_of, leased):
    coordinator.ledger = HERE
    node = await start_node(open_wallet=wallet_of)
    daemon = node.daemon
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.hear(LeaseRequest)
    await session.tell(leased(range(2)))
    await session.tell(RowsStored("r-1", (await session.hear(RowsDone)).report))
    daemon.engagement.worked([receipt(0, decode=9), receipt(1, decode=9)], [work_id(0), work_id(1)], [(), ()])
    await session.tell(leased(range(5, 7), lease=2, max_tokens=ENDLESS))
    server = await StatusServer.start(daemon, "127.0.0.1:0")
    async with aiohttp.ClientSession() as http, http.get(f"http://{server.address}/status") as answer:
        pay = (await answer.json())["pay"]
    async with aiohttp.ClientSession() as http, http.get(f"http://{server.address}/metrics") as answer:
        metrics = await answer.text()
    await server.close()
    assert pay["alarm"] == "2 chunks are unpaid, at most 1 may be"
    assert (pay["unpaid"], pay["due_chunks"]) == ("18", 2)
    assert "deserve_node_unpaid_alarm 1.0" in metrics
    failed = await session.hear(StageFailed)
    assert "this node stops serving: 2 chunks are unpaid" in failed.reason
    returned = next(message for message in session.heard if isinstance(message, RowsReturned))
    assert sorted(log.row for log in returned.rows) == [5, 6]
    assert max((len(log.generated) for log in returned.rows), default=0) < ENDLESS // 4  # it had stopped before

    await session.tell(*coordinator.ring(session, ring="r-2"))
    assert "waits for pay" in (await session.hear(StageFailed)).reason
    await session.tell(credit_for(daemon, 18, 1, covers=(work_id(0), work_id(1))))
    await coordinator.begin(session, ring="r-3")
    await session.tell(leased(range(8, 9), lease=3))
    assert (await session.hear(RowsDone)).results[0].row == 8


async def test_a_step_waits_for_the_reservation_and_is_computed_once_it_is_there(
    coordinator, start_node, wallet_of, leased, vault
):
    vault.reserved = 0
    coordinator.ledger = HERE
    node = await start_node(open_wallet=lambda identity: wallet_of(identity, unpaid_s=60.0))
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(1)))
    assert "reservation is used up" in node.daemon.engagement.alarm
    vault.reserved = 10**6
    assert (await session.hear(RowsDone)).results[0].row == 0
    assert node.daemon.engagement.alarm is None
