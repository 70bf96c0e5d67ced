"""Brings refuted work before the ledger: a bonded challenge, its panel, the evidence to who was drawn, the verdict.

Every step asks the ledger how far it is and does the next thing, so that it can be repeated after any crash; only which
challenge belongs to which audit is kept here. Three guilty votes take the stake; anything else leaves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deserve_coordinator.audits.case import Case
from deserve_coordinator.audits.spool import Spool
from deserve_coordinator.store.audit_queries import SignedPart
from deserve_coordinator.store.audits import AuditStore
from deserve_ledger.calls import Challenge, DrawPanel, Resolve
from deserve_ledger.commitments import digest
from deserve_ledger.errors import LedgerError, Refused
from deserve_ledger.identifiers import Work, ring_key
from deserve_ledger.interface import Ledger
from deserve_ledger.messages import WorkReceipt
from deserve_ledger.records import ChallengeRecord
from deserve_network.audit_messages import AUDIT, EvidenceHeader, EvidencePart, Summons
from deserve_network.money_messages import SignedReceipt

__all__ = ["Prosecution", "Summon"]

log = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 1000
_MOOT = ("NothingStaked", "TooLate", "AlreadyResolved", "UnknownNode")
"""There is no stake to take any more, or nothing left to do."""

Summon = Callable[[bytes, Summons, Callable[[], Iterator[EvidencePart]]], bool]
"""Sends a node, by id, a summons and its parts; False where it is not here."""


@dataclass(frozen=True, slots=True)
class _Exhibit:
    header: EvidenceHeader
    parts: tuple[SignedPart, ...]
    hash: bytes


class Prosecution:
    """`summon` reaches a node of a panel where it is connected. `poll_s`: how often the ledger is asked."""

    def __init__(self, ledger: Ledger, store: AuditStore, spool: Spool, summon: Summon, *, poll_s: float = 1.0) -> None:
        self._ledger = ledger
        self._store = store
        self._spool = spool
        self._summon = summon
        self._poll_s = poll_s
        self._summoned: set[tuple[int, bytes]] = set()
        self.slashed: list[bytes] = []
        """Node ids, since the start."""
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for case, challenge in await self._store.to_prosecute():
                try:
                    await self._advance(case, challenge)
                except LedgerError as error:
                    self.failures += 1
                    log.warning("audit %s: the ledger refuses: %s", case.subject.audit.hex(), error)
            await asyncio.sleep(self._poll_s)

    async def step(self) -> None:
        """One round over all that is open. Raises `LedgerError`."""
        for case, challenge in await self._store.to_prosecute():
            await self._advance(case, challenge)

    async def _advance(self, case: Case, challenge: int | None) -> None:
        exhibit = await self._exhibit(case)
        if exhibit is None:
            await self._close(case, "its evidence is gone")
            return
        if challenge is None:
            challenge = await self._find(case, exhibit) or await self._challenge(case, exhibit)
            if challenge is None:
                return
            await self._store.set_challenge(case.subject.audit, challenge)
        record = await self._ledger.challenge(challenge)
        if record.resolved:
            await self._end(case, record)
        elif record.panel:
            self._call(challenge, case.subject.row, record, exhibit)
            await self._refusal(Resolve(challenge))
        elif await self._refusal(DrawPanel(challenge)) == "TooLate":
            await self._refusal(Resolve(challenge))

    async def _challenge(self, case: Case, exhibit: _Exhibit) -> int | None:
        signed = self._doubted(case, exhibit).receipt
        work = Work(
            signed.job_id,
            ring_key(signed.ring),
            signed.epoch,
            signed.lease,
            signed.attempt,
            signed.stage,
            signed.chunk,
        )
        receipt = WorkReceipt(signed.work_id, signed.node_id, signed.in_root, signed.out_root, signed.units)
        try:
            settled = await self._ledger.submit(Challenge(work, receipt, signed.signature, exhibit.hash))
        except Refused as refused:
            if refused.reason in _MOOT:
                await self._close(case, f"there is nothing to challenge: {refused.reason}")
                return None
            raise
        log.warning("stage %d of %s is challenged on the ledger", case.subject.stage, case.subject.ring)
        return next(int(event.fields["challengeId"]) for event in settled.events if event.name == "Challenged")

    async def _find(self, case: Case, exhibit: _Exhibit) -> int | None:
        """The challenge of an earlier attempt that ended before it was noted."""
        signed, after = self._doubted(case, exhibit).receipt, 0
        while page := await self._ledger.events(after, _EVENTS_AT_ONCE):
            after = page[-1].position
            for event in page:
                if event.name == "Challenged" and event.fields["workId"] == signed.work_id:
                    found = int(event.fields["challengeId"])
                    if (await self._ledger.challenge(found)).challenger == self._ledger.account:
                        return found
        return None

    def _doubted(self, case: Case, exhibit: _Exhibit) -> SignedPart:
        """What was signed for the chunk in which the first failing auditor found the first wrong token."""
        verdict = case.failing[0].verdict
        position = 0 if verdict is None else max(0, verdict.position)
        spans = exhibit.header.evidence.spans
        chunk = next((s.chunk for s in spans if s.start <= position < s.start + s.count), spans[-1].chunk)
        return next(part for part in exhibit.parts if part.receipt.chunk == chunk)

    async def _exhibit(self, case: Case) -> _Exhibit | None:
        header = await asyncio.to_thread(self._spool.header, case.subject.audit)
        if header is None:
            return None
        parts = await self._store.receipts_of(case.subject, header.attempt)
        chunks = {span.chunk for span in header.evidence.spans}
        body = await asyncio.to_thread(self._spool.body, case.subject.audit)
        hashed = await asyncio.to_thread(digest, AUDIT.encode(header) + body)
        return _Exhibit(header, tuple(part for part in parts if part.receipt.chunk in chunks), hashed)

    def _call(self, challenge: int, row: int, record: ChallengeRecord, exhibit: _Exhibit) -> None:
        """Send every node of the panel that is here what it votes on, once."""
        receipts = tuple(_signed(part) for part in exhibit.parts)
        roots = tuple(part.previous_print_root for part in exhibit.parts)
        summons = Summons(challenge, row, exhibit.header, receipts, roots)
        audit = exhibit.header.audit

        def parts() -> Iterator[EvidencePart]:
            return self._spool.parts(audit, audit)

        for node_id in record.panel:
            if (challenge, node_id) not in self._summoned and self._summon(node_id, summons, parts):
                self._summoned.add((challenge, node_id))

    async def _refusal(self, call: DrawPanel | Resolve) -> str:
        """Why a call was turned down that may be too early, too late or another's already; empty where it was taken."""
        try:
            await self._ledger.submit(call)
        except Refused as refused:
            if refused.reason in ("TooEarly", "TooLate", "AlreadyDrawn", "AlreadyResolved"):
                return refused.reason
            raise
        return ""

    async def _end(self, case: Case, record: ChallengeRecord) -> None:
        slashed = (await self._ledger.node(record.node_id)).slashed
        if slashed:
            self.slashed.append(record.node_id)
        stake = "gone" if slashed else "kept"
        await self._close(
            case, f"{record.guilty} of the panel say guilty, {record.acquitted} not; the stake is {stake}"
        )

    async def _close(self, case: Case, why: str) -> None:
        log.warning("challenge of audit %s is over: %s", case.subject.audit.hex(), why)
        await self._store.close_prosecution(case.subject.audit)
        await asyncio.to_thread(self._spool.drop, case.subject.audit)


def _signed(part: SignedPart) -> SignedReceipt:
    receipt = part.receipt
    names = SignedReceipt.__dataclass_fields__
    return SignedReceipt(**{name: getattr(receipt, name) for name in names})
