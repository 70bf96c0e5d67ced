"""Daemons in a paid ring: receipts reach the coordinator, are repeated until stored, and outlive a broken ring."""

from __future__ import annotations

import dataclasses

from rings import DOMAIN, JOB

from deserve_ledger.keystore import Key
from deserve_ledger.prices import Prices
from deserve_ledger.records import Reservation
from deserve_network.control_messages import Release, RowsDone, RowsReturned
from deserve_network.money_messages import LedgerRef, Receipts, ReceiptsStored, WorkLabel
from deserve_node.proof.evidence import RowKey
from deserve_node.wallet.wallet import Wallet

LEDGER = LedgerRef(DOMAIN.chain_id, DOMAIN.contract, b"k" * 20)
ENDLESS = 480


class Vault:
    async def reservation(self, coordinator, node_id):
        return Reservation(amount=10**9)


def wallet_in(directory):
    directory.mkdir()

    def open_wallet(identity):
        return Wallet.open(directory, Key.generate(), identity, b"o" * 20, DOMAIN, Prices(0, 0), Vault())

    return open_wallet


def paid(lease):
    rows = [dataclasses.replace(row, work=WorkLabel(JOB, row.row, lease.lease)) for row in lease.rows]
    return dataclasses.replace(lease, rows=tuple(rows))


async def test_a_paid_ring_hands_its_receipts_to_the_coordinator_until_it_has_them(
    coordinator, start_node, leased, tmp_path
):
    coordinator.ledger = LEDGER
    nodes = [await start_node(open_wallet=wallet_in(tmp_path / f"wallet-{n}")) for n in (1, 2)]
    by_name = {session.hello.name: session for session in (await coordinator.join(), await coordinator.join())}
    sessions = [by_name["node-1"], by_name["node-2"]]
    await coordinator.begin(*sessions)
    await sessions[0].tell(paid(leased(range(3))))
    head, tail = [await session.hear(Receipts) for session in sessions]
    (first,), (second,) = head.receipts, tail.receipts
    assert second.in_root == first.out_root
    assert (first.rows, first.first_row, first.last_row) == (3, 0, 2)
    assert first.units == second.units
    # Rows are done before anybody is paid for them.
    assert await sessions[0].hear(RowsDone)
    # Nothing is acknowledged: whoever comes back says it again.
    await sessions[1].channel.close()
    again = await coordinator.join()
    repeated = await again.hear(Receipts)
    assert repeated == tail
    await again.tell(ReceiptsStored(repeated.report))
    await again.channel.close()
    last = await coordinator.join()
    await coordinator.begin(last, ring="r-2")
    await last.tell(paid(leased(range(5, 6), lease=2)))
    (other,) = (await last.hear(Receipts)).receipts
    assert (other.ring, other.stage, other.first_row) == ("r-2", 0, 5)
    key = RowKey(JOB, 5, 2, 0, "r-2", 1, 0)
    assert nodes[1].daemon.proofs.evidence.records(key)


async def test_what_a_broken_ring_had_done_is_signed_for_all_the_same(coordinator, start_node, leased, tmp_path):
    coordinator.ledger = LEDGER
    await start_node(open_wallet=wallet_in(tmp_path / "wallet"))
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(paid(leased(range(2), max_tokens=ENDLESS)))
    first = await session.hear(Receipts)
    await session.tell(Release("r-1", 1, "enough"))
    await session.hear(RowsReturned)
    rest = await session.hear(Receipts)
    chunks = [receipt.chunk for report in (first, rest) for receipt in report.receipts]
    assert chunks == sorted(set(chunks))


async def test_where_nothing_is_paid_nothing_is_opened(coordinator, start_node, leased):
    node = await start_node()
    session = await coordinator.join()
    await coordinator.begin(session)
    await session.tell(leased(range(1)))
    await session.hear(RowsDone)
    assert node.daemon.proofs is None
    assert list(node.daemon.settings.data.iterdir()) == []
