"""Working for one coordinator for money: receipts and credits in, and whether to go on out.

The state machine is `exposure`; here are disk, ledger and clock around it. Receipts come from the thread that signs
them, credits and the reservation from the event loop, so one lock orders them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deserve_ledger.errors import LedgerError
from deserve_ledger.prices import Prices
from deserve_ledger.records import Reservation
from deserve_network.money_messages import CreditNote, SignedReceipt
from deserve_node.wallet.clearance import Clearance
from deserve_node.wallet.credits import check_credit, signed_credit
from deserve_node.wallet.errors import CreditForged, Unpaid
from deserve_node.wallet.exposure import Collateral, Exposure, RowName, Worked
from deserve_node.wallet.store import Debtor, Earned, WalletStore

__all__ = ["Engagement", "Patience", "Reservations"]

log = logging.getLogger(__name__)


class Reservations(Protocol):
    """What of a `Ledger` is needed here."""

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """`unpaid_s`: how long the node waits, without computing, before it leaves the ring. `look_s`: how often it reads
    the ledger, `unread_s`: how long it relies on what it read last; an announced release takes longer to come true."""

    unpaid_s: float = 30.0
    look_s: float = 10.0
    unread_s: float = 300.0


class Engagement:
    def __init__(
        self,
        debtor: Debtor,
        store: WalletStore,
        prices: Prices,
        reservations: Reservations,
        *,
        most_chunks: int = 1,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.debtor = debtor
        self._store = store
        self._prices = prices
        self._reservations = reservations
        self._patience = patience or Patience()
        self._clock = clock
        self._lock = threading.Lock()
        self._exposure = Exposure(most_chunks)
        self._exposure.remembered(store.works(debtor))
        self._newest = store.newest(debtor)
        self._held = store.held(debtor)
        self._reservation = Reservation()
        self._read_s: float | None = None
        self._forged = store.fraud(debtor) is not None
        self._clearance = Clearance()
        self._shut_s: float | None = None
        """Since when the node waits."""
        self._stopped = False
        """It has waited long enough, and left the ring."""
        self.alarm: str | None = None
        """Why it does, in words."""
        self.alarms = 0

    @property
    def free_of_charge(self) -> bool:
        return self._prices == Prices(0, 0)

    @property
    def reservation(self) -> Reservation:
        """As last read."""
        return self._reservation

    @property
    def unpaid(self) -> int:
        """Base units at this node's prices that no credit covers."""
        with self._lock:
            return self._exposure.unpaid

    @property
    def due_chunks(self) -> int:
        with self._lock:
            return self._exposure.due_chunks

    @property
    def credited(self) -> int:
        return 0 if self._newest is None else self._newest.credit.cumulative

    @property
    def held(self) -> int:
        return self._held

    def new_clearance(self) -> Clearance:
        """For the membership that begins now; the one before is over, and what it left open goes on elsewhere."""
        with self._lock:
            self._exposure.ring_over()
            self._clearance.dismiss()
            self._clearance = Clearance()
            self._judge()
            return self._clearance

    def worked(
        self, receipts: Sequence[SignedReceipt], work_ids: Sequence[bytes], rows: Sequence[Iterable[RowName]]
    ) -> None:
        """Receipts that were signed now, their work ids and the rows that each is for. They are on disk afterwards.

        For any thread. Raises `WalletUnusable`.
        """
        works = [
            Worked(work_id, (one.ring, one.epoch, one.chunk), self._micros(one), frozenset(names))
            for one, work_id, names in zip(receipts, work_ids, rows, strict=True)
        ]
        prefill = sum(one.prefill_units for one in receipts)
        earned = Earned(sum(work.micros for work in works), prefill, sum(one.units for one in receipts) - prefill)
        with self._lock:
            self._store.keep_works(self.debtor, works, earned)
            self._exposure.worked(works)
            self._judge()

    def _micros(self, receipt: SignedReceipt) -> int:
        drawn = receipt.units - receipt.prefill_units
        return receipt.prefill_units * self._prices.prefill + drawn * self._prices.decode

    def over(self, rows: Iterable[RowName]) -> None:
        """These rows have left the ring. For any thread."""
        with self._lock:
            self._exposure.over(rows)
            self._judge()

    async def credit(self, note: CreditNote) -> None:
        """Check a credit and keep it; what is not on disk when this returns has raised.

        Raises `CreditForged` for the second of two contents, which is kept as proof, `CreditRefused`, `WalletUnusable`.
        """
        await asyncio.to_thread(self._credit, note)

    def _credit(self, note: CreditNote) -> None:
        with self._lock:
            same_number = self._store.credit(self.debtor, note.seq)
            try:
                signed = check_credit(note, self.debtor, same_number, self._newest)
            except CreditForged:
                self._store.keep_fraud(self.debtor, signed_credit(note))
                self._forged = True
                self._judge()
                raise
            self._store.keep_credit(self.debtor, signed, note.held, note.covers)
            if self._newest is None or signed.credit.seq >= self._newest.credit.seq:
                self._newest, self._held = signed, note.held
            self._exposure.covered(note.covers)
            self._judge()

    async def look(self) -> None:
        """Read the reservation. A ledger that does not answer is only an alarm once it has not for long."""
        try:
            reservation = await self._reservations.reservation(self.debtor.coordinator, self.debtor.node_id)
        except LedgerError as error:
            log.warning("the reservation cannot be read: %s", error)
        else:
            self._reservation, self._read_s = reservation, self._clock()
        with self._lock:
            self._judge()

    async def overdue(self) -> str | None:
        """Why this node has stopped serving for want of pay, looked at anew; None where it has not."""
        await self.look()
        return self.alarm if self._stopped else None

    async def watch(self) -> None:
        """Keep an eye on the ledger while the node serves. Raises `Unpaid` once it has waited long enough for pay."""
        patience, began_s = self._patience, self._clock()
        while True:
            await self.look()
            if self._shut_s is not None and self._clock() - max(self._shut_s, began_s) >= patience.unpaid_s:
                self._stopped = True
                raise Unpaid(f"this node stops serving: {self.alarm}")
            pause_s = patience.look_s if self._shut_s is None else min(patience.look_s, patience.unpaid_s / 10)
            await asyncio.sleep(pause_s)

    def fault(self) -> str | None:
        """Why nothing further may be computed, in words."""
        with self._lock:
            return self._fault()

    def _fault(self) -> str | None:
        if self._forged:
            return "the coordinator signed two contents under one number; the proof is kept"
        if self.free_of_charge:
            return None
        if self._read_s is None or self._clock() - self._read_s > self._patience.unread_s:
            return "the reservation could not be read from the ledger"
        found = self._reservation
        return self._exposure.fault(Collateral(self.credited, found.claimed, self._held, found.safe))

    def _judge(self) -> None:
        """Open or shut what the computing thread waits at, and tell the operator when that changes."""
        alarm = self._fault()
        if alarm is not None and self.alarm is None:
            self.alarms += 1
            self._shut_s = self._clock()
            log.warning("waiting for pay from 0x%s: %s", self.debtor.coordinator.hex(), alarm)
        elif alarm is None and self.alarm is not None:
            self._shut_s = None
            self._stopped = False
            log.info("paid by 0x%s again", self.debtor.coordinator.hex())
        self.alarm = alarm
        self._clearance.set(alarm is None)

    def status(self) -> Mapping[str, object]:
        """For the operator. Base units are texts: JSON's numbers would round them."""
        return {
            "coordinator": f"0x{self.debtor.coordinator.hex()}",
            "node_id": f"0x{self.debtor.node_id.hex()}",
            "credited": str(self.credited),
            "held": str(self.held),
            "unpaid": str(self.unpaid),
            "due_chunks": self.due_chunks,
            "reserved": str(self._reservation.safe),
            "claimed": str(self._reservation.claimed),
            "alarm": self.alarm,
            "alarms": self.alarms,
        }
