"""What a node has earned, of whom, and how it is collected: from what it holds itself, and no coordinator's word."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_ledger.claiming import Claimed, redeem
from deserve_ledger.interface import Ledger
from deserve_ledger.prices import UNITS_PER_PRICE
from deserve_ledger.records import Reservation
from deserve_node.wallet.store import Debtor, WalletStore

__all__ = ["Earnings", "collect", "earnings_of"]


@dataclass(frozen=True, slots=True)
class Earnings:
    """Of one coordinator, base units since the beginning. What the ledger says is None where it was not asked."""

    debtor: Debtor
    earned: int
    """By this node's receipts, at its own prices."""
    credited: int
    held: int
    """Earned as the coordinator counts, and not credited until it is paid for and audits are decided."""
    seq: int
    reservation: Reservation | None
    fraud: bool
    """The coordinator signed two credits under one number; the proof is kept."""

    @property
    def claimable(self) -> int | None:
        """What a claim would pay now."""
        found = self.reservation
        return None if found is None else min(max(0, self.credited - found.claimed), found.amount)


async def earnings_of(store: WalletStore, ledger: Ledger | None) -> list[Earnings]:
    """Of every coordinator that this node ever worked for. Raises `ChainUnreachable`."""
    found = []
    for debtor in store.debtors():
        newest = store.newest(debtor)
        reservation = None
        if ledger is not None and ledger.domain == debtor.domain:
            reservation = await ledger.reservation(debtor.coordinator, debtor.node_id)
        found.append(
            Earnings(
                debtor,
                store.earned(debtor).micros // UNITS_PER_PRICE,
                0 if newest is None else newest.credit.cumulative,
                store.held(debtor),
                0 if newest is None else newest.credit.seq,
                reservation,
                store.fraud(debtor) is not None,
            )
        )
    return found


async def collect(store: WalletStore, ledger: Ledger) -> list[Claimed]:
    """Redeem the newest credit of each coordinator on this ledger, whatever has become of it. Raises `LedgerError`."""
    claimed = []
    for debtor in store.debtors():
        newest = store.newest(debtor)
        if newest is not None and debtor.domain == ledger.domain:
            claimed.append(await redeem(ledger, newest))
    return claimed
