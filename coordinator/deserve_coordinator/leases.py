"""Hands rows to rings and takes results back. A lease lasts as long as its ring shows progress.

A *holder* is one epoch of one ring, written "ring/epoch"; one that shows none is reported as stuck. Open requests are
answered as soon as there is work; an answered request is over, and the head asks again. Where nothing is pending and
another ring holds much more than its part, the difference is recalled for the one that asks. Deadlines live in memory
only: after a restart nobody holds anything and a result that is still under way is accepted by its fence. Knows no
channel: messages leave through `send`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deserve_coordinator.lease_messages import finished_rows, lease_message, returned_rows
from deserve_coordinator.money.tariff import StageTerms
from deserve_coordinator.shares import Transfer, admitted, affordable, batch_shares, ring_allowance, transfer
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.records import FinishCounts
from deserve_network.control_messages import Cancel, Recall, RowLog, RowResult

__all__ = ["LeaseCounts", "Leases", "holder_of"]

log = logging.getLogger(__name__)

LARGEST_LEASE = 4096
_LARGEST_LEASE_BYTES = 16 << 20
_CANCEL_AT_ONCE = 4096


def holder_of(ring: str, epoch: int) -> str:
    return f"{ring}/{epoch}"


@dataclass
class LeaseCounts:
    """Totals since the start, for /metrics."""

    granted: int = 0
    rows_leased: int = 0
    rows_stored: int = 0
    duplicates: int = 0
    stale: int = 0
    returned: int = 0
    expired: int = 0
    failures: int = 0
    recalled: int = 0


@dataclass
class _Recall:
    """One at a time: until the rows came back and were granted, or the source had long enough to give them."""

    transfer: Transfer
    deadline: float
    returned: bool = False


@dataclass
class _Demand:
    rows: int
    since: float
    codecs: Sequence[str]


@dataclass
class _Holder:
    terms: Sequence[StageTerms] = ()
    """What its stages cost; empty where nobody is paid."""
    demand: _Demand | None = None
    deadline: float | None = None
    """Of all its leases, in monotonic seconds: progress on one row is progress of the ring. None where it has none."""
    leaving: bool = False
    failed: bool = False
    """Its ring could not go on: each row that it did not finish was lost once more."""
    returned: set[int] = field(default_factory=set)
    """Rows given back while the ring served. A head that fails returns its rows before it says so."""


class Leases:
    """`send(holder, message)` delivers to the holder's head; `on_finished` is called when a batch has its last row,
    `on_stuck(holder)` when a ring that holds rows made no progress for `lease_s`.

    `clock` is monotonic, in seconds. `patience_s`: how long a ring that has its equal part waits for the others to ask
    before it is given more. `seed`: see `row_seed`.
    """

    def __init__(
        self,
        store: Store,
        send: Callable[[str, object], None],
        *,
        clock: Callable[[], float],
        on_finished: Callable[[], None] = lambda: None,
        on_stuck: Callable[[str], None] = lambda holder: None,
        lease_s: float = 300.0,
        grace_s: float = 10.0,
        patience_s: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self._store = store
        self._send = send
        self._clock = clock
        self._on_finished = on_finished
        self._on_stuck = on_stuck
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._patience_s = patience_s
        self._seed = seed
        self._holders: dict[str, _Holder] = {}
        self._losses: list[int] = []
        """Rows that came back from rings that failed afterwards, not yet counted."""
        self._recall: _Recall | None = None
        self._wake = asyncio.Event()
        self.pending_rows = 0
        """When last looked, for /metrics."""
        self.counts = LeaseCounts()

    def wake(self) -> None:
        """There may be work now."""
        self._wake.set()

    def open(self, holder: str, terms: Sequence[StageTerms] = ()) -> None:
        """The holder's ring serves from now on, on these terms."""
        self._holders[holder] = _Holder(terms)
        self.wake()

    def request(self, holder: str, rows: int, codecs: Sequence[str] = ()) -> None:
        """Room for `rows` more; replaces an earlier request that is still open.

        `codecs` are what the ring proposes for a batch whose first rows these are, the best first.
        """
        state = self._holders.get(holder)
        if state is not None and not state.leaving and rows > 0:
            since = self._clock() if state.demand is None else state.demand.since
            state.demand = _Demand(min(rows, LARGEST_LEASE), since, codecs)
            self.wake()

    def progress(self, holder: str) -> None:
        """The ring computes: its leases last."""
        state = self._holders.get(holder)
        if state is not None and not state.leaving and state.deadline is not None:
            state.deadline = self._clock() + self._lease_s

    def leave(self, holder: str, *, failed: bool) -> None:
        """The ring was told to stop and still returns its token logs: what is not back after a grace is taken back.

        `failed`: it could not go on, so its rows count a loss; otherwise they come back as they are.
        """
        state = self._holders.get(holder)
        if state is None or state.leaving:
            return
        state.leaving = True
        state.failed = failed
        state.demand = None
        state.deadline = self._clock() + self._grace_s
        if failed and state.returned:
            self._losses.extend(state.returned)
            self.wake()

    async def lost(self, holder: str) -> None:
        """The head is gone: its rows are open again at once."""
        self._holders.pop(holder, None)
        if await self._store.release_ring(holder, failed=True):
            self.wake()
            self._on_finished()

    async def finish(self, holder: str, results: Sequence[RowResult]) -> FinishCounts:
        """Store results durably. Raises `ProtocolViolation` for what no honest head reports."""
        counts = await self._store.finish_rows(holder, await asyncio.to_thread(finished_rows, results))
        self.progress(holder)
        self.counts.rows_stored += counts.stored
        self.counts.duplicates += counts.duplicate
        self.counts.stale += counts.stale
        if counts.stale:
            log.warning("%d results under an outdated fence were refused", counts.stale)
        if counts.batches:
            self._on_finished()
        return counts

    async def take_back(self, holder: str, rows: Sequence[RowLog], *, recalled: bool = False) -> int:
        """Unfinished rows with their token logs. Returns how many leases of a row that ends.

        `recalled`: the head says that we asked for them. Rows that we did recall count no loss if its ring fails.
        """
        recall = self._recall if recalled else None
        if recall is not None and (recall.transfer.source != holder or len(rows) > recall.transfer.rows):
            recall = None
        state = self._holders.get(holder)
        failed = state is not None and state.failed
        keys = await self._store.return_rows(holder, returned_rows(rows), failed=failed)
        self.counts.returned += len(keys)
        if recall is not None:
            recall.returned = True
            self.counts.recalled += len(keys)
        elif state is not None and not failed:
            if state.failed:
                self._losses.extend(keys)  # the ring failed while the commit ran
            else:
                state.returned.update(keys)
        if keys:
            self.wake()
            self._on_finished()
        return len(keys)

    def forget(self, held: dict[str, list[int]]) -> None:
        """Nobody wants these rows any more: tell the heads that hold them."""
        for holder, rows in held.items():
            for start in range(0, len(rows), _CANCEL_AT_ONCE):
                ring = holder.rsplit("/", 1)[0]
                self._send(holder, Cancel(ring, tuple(rows[start : start + _CANCEL_AT_ONCE])))

    async def run(self, poll_s: float = 0.5) -> None:
        """Answer requests and end overdue leases until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.expire()
                await self.count_losses()
                await self.grant()
            except Exception:
                self.counts.failures += 1
                log.exception("leasing failed; trying again")
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._wake.wait()

    async def expire(self) -> None:
        """Report rings that hold rows and whose deadline has passed; take back what leaving ones did not return."""
        now = self._clock()
        for holder, state in list(self._holders.items()):
            if state.deadline is None or state.deadline > now:
                continue
            if state.leaving:
                await self._take_rest(holder, state)
                continue
            held = await self._store.held_by(holder)
            if state.leaving or state.deadline is None or state.deadline > now:
                continue  # it ended, or computed, while the store was asked
            state.deadline = None
            if held:
                self.counts.expired += 1
                log.warning("%s made no progress in %g s with %d rows open", holder, self._lease_s, held)
                self.leave(holder, failed=True)
                self._on_stuck(holder)

    async def _take_rest(self, holder: str, state: _Holder) -> None:
        if keys := await self._store.release_ring(holder, failed=state.failed):
            log.warning("%s did not return %d rows", holder, len(keys))
            self.forget({holder: keys})
            self._wake.set()
            self._on_finished()
        self._holders.pop(holder, None)

    async def count_losses(self) -> None:
        """Count a loss for each row that a ring gave back before it was known to have failed."""
        if self._losses:
            losses = tuple(self._losses)
            await self._store.count_losses(losses)
            del self._losses[: len(losses)]
            self._on_finished()

    async def grant(self) -> None:
        """Answer every open request that work is there for, the longest waiting first. Recall rows if there is none."""
        self._end_recall()
        asking = [(state.demand.since, name) for name, state in self._holders.items() if state.demand is not None]
        for _, holder in sorted(asking):
            await self._grant_one(holder)
        if asking and not self.pending_rows and self._recall is None:
            await self._recall_rows()

    async def _recall_rows(self) -> None:
        backlog = await self._store.backlog()
        serving = [name for name, state in self._holders.items() if not state.leaving]
        held = {name: await self._store.held_by(name) for name in serving}
        states = {name: state for name, state in self._holders.items() if name in held and not state.leaving}
        if len(states) < len(held):
            return  # one of them ended while the store was asked
        wanted = {name: state.demand.rows for name, state in states.items() if state.demand is not None}
        # What a dearer ring may not compute would only go back to where it came from.
        wanted = {name: rows for name, rows in wanted.items() if admitted(backlog, states[name].terms)}
        found = transfer(held, wanted)
        if found is None:
            return
        self._recall = _Recall(found, self._clock() + self._grace_s)
        log.info("recalling %d rows from %s for %s", found.rows, found.source, found.asker)
        ring, _, epoch = found.source.rpartition("/")
        self._send(found.source, Recall(ring, int(epoch), found.rows))

    def _end_recall(self) -> None:
        """Give up on rows that nobody is left to give or to take, or that did not come in time."""
        if self._recall is None:
            return
        between = [self._holders.get(name) for name in (self._recall.transfer.source, self._recall.transfer.asker)]
        gone = any(state is None or state.leaving for state in between)
        if gone or self._recall.deadline <= self._clock():
            self._recall = None

    async def _grant_one(self, holder: str) -> None:
        state = self._holders.get(holder)
        if state is None or state.demand is None:
            return
        demand = state.demand
        backlog = await self._store.backlog()
        self.pending_rows = sum(batch.pending for batch in backlog)
        if not self.pending_rows:
            return
        backlog = affordable(backlog, state.terms)
        rings = sum(not other.leaving for other in self._holders.values())
        held = await self._store.held_by(holder)
        allowance = ring_allowance(backlog, wanted=demand.rows, held=held, rings=rings)
        # While rows are recalled for one ring, patience would give them to another, or back to where they come from.
        reserved = self._recall is not None and self._recall.transfer.asker != holder
        if allowance == 0 and not reserved and self._clock() - demand.since >= self._patience_s:
            allowance = demand.rows
        shares = batch_shares(backlog, allowance)
        record = await self._store.lease_rows(holder, shares, _LARGEST_LEASE_BYTES, demand.codecs, state.terms)
        if record is None:
            return
        if self._holders.get(holder) is not state or state.leaving:
            await self._store.release_lease(record.fence, failed=False)  # the ring ended while the commit ran
            return
        if state.demand is demand:
            state.demand = None
        state.deadline = self._clock() + self._lease_s
        if self._recall is not None and self._recall.returned and self._recall.transfer.asker == holder:
            self._recall = None
        self.counts.granted += 1
        self.counts.rows_leased += len(record.rows)
        waiting = max(0, sum(batch.pending for batch in backlog) - len(record.rows)) // max(1, rings)
        self._send(holder, lease_message(record, self._lease_s, self._seed, waiting=waiting))
