"""Carries audits out: keeps every case on disk, talks to audited nodes and auditors, and draws the consequences.

What happens to a case is decided by `machine`; every event is applied under one lock, and stored before anybody is told
of it. A restart goes on from what is stored: auditors that were at work are asked anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from deserve_coordinator.audits import machine
from deserve_coordinator.audits.assignment import Candidate, choose_auditors
from deserve_coordinator.audits.canary import CanaryKey, altered
from deserve_coordinator.audits.case import Case, Kind, Outcome, Phase, Replay, Subject, Verdict
from deserve_coordinator.audits.consequences import consequences
from deserve_coordinator.audits.drawing import Drawing
from deserve_coordinator.audits.evidence import Expected, evidence_fault, header_fault
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.reputation import Standing, may_audit
from deserve_coordinator.audits.session import AuditSession
from deserve_coordinator.audits.spool import Spool
from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.session import ControlChannel
from deserve_coordinator.store.audits import AuditStore
from deserve_network.audit_messages import (
    MAX_ROWS_OVER,
    AuditCommit,
    AuditDeclined,
    AuditReveal,
    AuditTask,
    DrawnFrom,
    EvidenceHeader,
    EvidencePart,
    EvidenceRequest,
    NoEvidence,
    RevealRequest,
    RowsOver,
    Summons,
)
from deserve_network.errors import NetworkError

__all__ = ["AuditDesk", "Swarm"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swarm:
    """What the desk needs of the nodes. `who(peer_id)`: an accepted node as a candidate, None for others. `put_out` and
    `rest` are told a node id and the reason; `expected` what is known of a row's evidence beforehand."""

    who: Callable[[str], Candidate | None]
    put_out: Callable[[bytes, str], None]
    rest: Callable[[bytes, str], None]
    expected: Callable[[Subject], Awaitable[Expected]]
    layer_bytes: Callable[[int, int], int] = lambda first, last: 0
    """What an auditor must lend for layers [first, last)."""


class AuditDesk:
    """Call `serve` for each audit stream and keep `run` running. `clock` gives Unix seconds.

    `on_decided` is called when batches may be ready to publish, `on_work` when rows are to be computed again.
    """

    def __init__(
        self,
        store: AuditStore,
        spool: Spool,
        drawing: Drawing,
        swarm: Swarm,
        policy: AuditPolicy,
        *,
        canaries: CanaryKey,
        fresh: Callable[[int], bytes],
        clock: Callable[[], float],
        on_decided: Callable[[], None] = lambda: None,
        on_work: Callable[[], None] = lambda: None,
        poll_s: float = 0.5,
    ) -> None:
        self._store = store
        self._spool = spool
        self._drawing = drawing
        self._swarm = swarm
        self._policy = policy
        self._canaries = canaries
        self._fresh = fresh
        self._clock = clock
        self._on_decided = on_decided
        self._on_work = on_work
        self._poll_s = poll_s
        self._cases: dict[bytes, Case] = {}
        self._sessions: dict[bytes, AuditSession] = {}
        self._lock = asyncio.Lock()
        self.standings: dict[bytes, Standing] = {}
        self.outcomes: Counter[str] = Counter()
        """Decided audits and canaries since the start, by outcome."""
        self.failures = 0

    @property
    def open(self) -> int:
        return len(self._cases)

    def barred(self, node_id: bytes) -> str:
        """Why a node may not come back; empty where it may."""
        return self.standings.get(node_id, Standing()).barred

    @property
    def put_out(self) -> dict[bytes, str]:
        """Why, by node id, of all that may not come back."""
        return {node: standing.barred for node, standing in self.standings.items() if standing.barred}

    async def undecided(self, batch_id: str) -> int:
        """Rows of a batch whose audits are not over."""
        return await self._store.undecided(batch_id)

    async def load(self) -> None:
        """Go on where the last process stopped. Before anything else."""
        self.standings = await self._store.standings()
        self._cases = {case.subject.audit: case for case in await self._store.open_cases()}
        prosecuted = {case.subject.audit for case, _ in await self._store.to_prosecute()}
        self._spool.sweep(set(self._cases) | prosecuted)
        for case in list(self._cases.values()):
            for replay in case.replays:
                if replay.open:
                    await self._apply(case.subject.audit, machine.AuditorGone(replay.task))
            if case.phase is not Phase.ASKING and self._spool.header(case.subject.audit) is None:
                await self._apply(case.subject.audit, machine.EvidenceGone())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except Exception:
                self.failures += 1
                log.exception("audits cannot go on; trying again")
            await asyncio.sleep(self._poll_s)

    async def step(self) -> None:
        """Draw, let time pass, look for auditors."""
        passed_over = self._drawing.rows_passed_over
        for drawn in await self._drawing.draw(self.standings):
            self._cases[drawn.subject.audit] = drawn
            await self._apply(drawn.subject.audit, machine.Begun())
        over, self._drawing.over = self._drawing.over, []
        self._tell_over(over)
        if self._drawing.rows_passed_over > passed_over:
            self._on_decided()
        for audit in list(self._cases):
            await self._apply(audit, machine.Passing())
            case = self._cases.get(audit)
            if case is not None and case.missing > 0:
                await self._assign(case)

    async def serve(self, channel: ControlChannel) -> None:
        """Talk to one node until its stream ends. Raises nothing for what the node does."""
        who = self._swarm.who(channel.peer_id)
        if who is None:
            await channel.close()
            return
        channel.trust()
        session = AuditSession(channel, who.node_id)
        earlier, self._sessions[who.node_id] = self._sessions.get(who.node_id), session
        if earlier is not None:
            await earlier.close()
        try:
            for case in list(self._cases.values()):
                if case.phase is Phase.ASKING and case.subject.node_id == who.node_id:
                    self._request(case)
            while True:
                await self._hear(session, await channel.receive())
        except (ProtocolViolation, NetworkError) as error:
            log.info("audits of %s: %s", channel.peer_id, error)
        finally:
            if self._sessions.get(who.node_id) is session:
                del self._sessions[who.node_id]
            await session.close()
            await self._lose(who.node_id)

    def summon(self, node_id: bytes, summons: Summons, parts: Callable[[], Iterator[EvidencePart]]) -> bool:
        """Send a node what a panel votes on; False where it is not here."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.send(summons, parts())
        return session is not None

    def _tell_over(self, over: list[tuple[bytes, int]]) -> None:
        """Whoever is not here keeps evidence for longer than it must, and loses nothing by that."""
        for job_id in dict.fromkeys(job_id for job_id, _ in over):
            rows = [row for job, row in over if job == job_id]
            for start in range(0, len(rows), MAX_ROWS_OVER):
                for session in self._sessions.values():
                    session.send(RowsOver(job_id, tuple(rows[start : start + MAX_ROWS_OVER])))

    async def _lose(self, node_id: bytes) -> None:
        if node_id in self._sessions:
            return
        for case in list(self._cases.values()):
            for replay in case.replays:
                if replay.open and replay.node_id == node_id:
                    await self._apply(case.subject.audit, machine.AuditorGone(replay.task))

    async def _apply(self, audit: bytes, event: machine.Event) -> None:
        async with self._lock:
            before = self._cases.get(audit)
            if before is None:
                return
            case, actions = machine.apply(before, event, self._clock(), self._policy)
            if case is before:
                return
            self._cases[audit] = case
            if case.phase is Phase.DECIDED:
                await self._conclude(case)
                return
            await self._store.save(case)
            for action in actions:
                self._act(case, action)

    def _act(self, case: Case, action: machine.Action) -> None:
        match action:
            case machine.AskForEvidence():
                self._request(case)
            case machine.GiveTask():
                self._give(case, action.task)
            case machine.RequestReveal():
                replay = case.of_task(action.task)
                session = None if replay is None else self._sessions.get(replay.node_id)
                if session is not None:
                    session.send(RevealRequest(action.task))

    def _request(self, case: Case) -> None:
        subject = case.subject
        session = self._sessions.get(subject.node_id)
        if session is None:
            return
        drawn = DrawnFrom(subject.anchor, subject.position, subject.beacon, subject.rate_ppm)
        request = EvidenceRequest(
            subject.audit,
            max(1, case.asks),
            subject.ring,
            subject.epoch,
            subject.stage,
            subject.first,
            subject.last,
            subject.job_id,
            subject.row,
            subject.lease,
            drawn,
        )
        session.asked[subject.audit] = request
        session.send(request)

    def _give(self, case: Case, task: bytes) -> None:
        audit, replay = case.subject.audit, case.of_task(task)
        header = self._spool.header(audit)
        session = None if replay is None else self._sessions.get(replay.node_id)
        if session is None or header is None:
            return  # its time runs out, and somebody else is asked
        session.send(AuditTask(task, self._policy.replay_s, header.evidence), self._spool.parts(audit, task))

    async def _assign(self, case: Case) -> None:
        subject = case.subject
        tasks = Counter(replay.node_id for other in self._cases.values() for replay in other.replays if replay.open)
        candidates = [
            replace(who, tasks=tasks[who.node_id])
            for session in self._sessions.values()
            if (who := self._swarm.who(session.peer_id)) is not None
            and may_audit(self.standings.get(who.node_id, Standing()))
        ]
        seen = {replay.operator for replay in case.replays}
        chosen = choose_auditors(
            candidates,
            audit=subject.audit,
            beacon=subject.beacon,
            count=case.missing,
            not_by={subject.operator, *seen},
            not_on={replay.hardware for replay in case.replays},
            not_in_ring=f"{subject.ring}/{subject.epoch}",
            needs_bytes=self._swarm.layer_bytes(subject.first, subject.last),
        )
        # A confirmation begins with all that it needs: one more failed replay alone would decide nothing.
        if len(chosen) == case.missing:
            replays = tuple(Replay(self._fresh(16), one.node_id, one.operator, one.hardware) for one in chosen)
            await self._apply(subject.audit, machine.Assigned(replays))

    async def _hear(self, session: AuditSession, message: object) -> None:
        match message:
            case EvidenceHeader():
                await self._begin_evidence(session, message)
            case EvidencePart():
                await self._add_evidence(session, message)
            case NoEvidence():
                if session.asked.pop(message.audit, None) is not None:
                    await self._apply(message.audit, machine.EvidenceUnfit(f"the node says: {message.reason}"[:512]))
            case AuditCommit():
                await self._from_auditor(session, message.audit, machine.Committed(message.audit, message.commitment))
            case AuditReveal():
                verdict = Verdict(message.passed, message.error_ppm, message.position, message.reason)
                await self._from_auditor(session, message.audit, machine.Revealed(message.audit, verdict, message.salt))
            case AuditDeclined():
                log.info("%s declines an audit: %s", session.peer_id, message.reason)
                await self._from_auditor(session, message.audit, machine.AuditorGone(message.audit))
            case _:
                raise ProtocolViolation("message", f"a node does not send {type(message).__name__}")

    async def _from_auditor(self, session: AuditSession, task: bytes, event: machine.Event) -> None:
        for case in self._cases.values():
            replay = case.of_task(task)
            if replay is not None and replay.node_id == session.node_id:
                await self._apply(case.subject.audit, event)
                return

    async def _begin_evidence(self, session: AuditSession, header: EvidenceHeader) -> None:
        if session.asked.pop(header.audit, None) is None or session.incoming is not None:
            raise ProtocolViolation("audit", "evidence that nobody asked for")
        case = self._cases.get(header.audit)
        if case is None or case.phase is not Phase.ASKING:
            raise ProtocolViolation("audit", "evidence that comes too late")
        fault = header_fault(
            header, case.subject, await self._swarm.expected(case.subject), self._policy.evidence_bytes
        )
        if fault is not None:
            # What follows would have to be read and thrown away.
            await self._apply(header.audit, machine.EvidenceUnfit(fault))
            raise ProtocolViolation("evidence", fault)
        session.incoming = self._spool.receive(header)

    async def _add_evidence(self, session: AuditSession, part: EvidencePart) -> None:
        incoming = session.incoming
        if incoming is None or incoming.header.audit != part.audit:
            raise ProtocolViolation("audit", "a part of no evidence")
        if (fault := await asyncio.to_thread(incoming.add, part)) is not None:
            raise ProtocolViolation("offset", fault)
        if incoming.complete:
            session.incoming = None
            await asyncio.to_thread(incoming.settle)
            await self._check(incoming.header)

    async def _check(self, header: EvidenceHeader) -> None:
        case = self._cases.get(header.audit)
        if case is None or case.phase is not Phase.ASKING:
            return
        subject = case.subject
        receipts = await self._store.receipts_of(subject, header.attempt)
        expected = await self._swarm.expected(subject)

        def read(offset: int, size: int) -> bytes:
            return self._spool.read(subject.audit, offset, size)

        fault = await asyncio.to_thread(evidence_fault, header, read, subject, expected, receipts)
        if fault is None:
            await asyncio.to_thread(self._spool.finish, header)
            await self._apply(subject.audit, machine.EvidenceCame())
        else:
            log.warning("audit of row %d, stage %d: %s", subject.row, subject.stage, fault)
            await self._apply(subject.audit, machine.EvidenceUnfit(fault))

    async def _conclude(self, case: Case) -> None:
        """Store what was decided and what follows, then tell who has to know."""
        assert case.outcome is not None
        subject = case.subject
        follow = consequences(case, lambda node_id: self.standings.get(node_id, Standing()))
        withdrawn, over = await self._store.conclude(case, follow.standings, follow.withdrawn, follow.barred)
        self._tell_over(over)
        self.standings.update(follow.standings)
        self.outcomes[case.outcome] += 1
        del self._cases[subject.audit]
        where = f"row {subject.row}, stage {subject.stage} of {subject.ring}/{subject.epoch}"
        level = logging.INFO if case.outcome.row_stands else logging.WARNING
        log.log(level, "audit of %s: %s%s", where, case.outcome, f": {case.reason}" if case.reason else "")
        if case.outcome is Outcome.PASSED and self._canaries.wanted(subject.audit, self._policy.canary_ppm):
            await self._lay_canary(case)
        # What was refuted a panel will want to see.
        if case.outcome is not Outcome.REFUTED:
            self._spool.drop(subject.audit)
        for audit in [audit for audit, other in self._cases.items() if other.subject.row in withdrawn]:
            del self._cases[audit]
            self._spool.drop(audit)
        if follow.barred is not None:
            self._swarm.put_out(follow.barred, self.standings[follow.barred].barred)
        if follow.doubted is not None:
            self._swarm.rest(follow.doubted, case.reason)
        if withdrawn:
            log.warning("%d rows are computed again", len(withdrawn))
            self._on_work()
        self._on_decided()

    async def _lay_canary(self, case: Case) -> None:
        """Give evidence that was just found honest to somebody who has not seen it, altered or not."""
        audit = self._fresh(16)
        header = self._spool.header(case.subject.audit)
        if header is None:
            return
        body = await asyncio.to_thread(self._spool.body, case.subject.audit)
        kind, evidence = Kind.MUST_PASS, header.evidence
        if self._canaries.must_fail(case.subject.audit):
            made = altered(self._canaries, case.subject.audit, evidence, body)
            if made is None:
                return
            kind, (evidence, body) = Kind.MUST_FAIL, made
        await asyncio.to_thread(self._spool.keep, replace(header, audit=audit, evidence=evidence), body)
        # Whoever has seen it would know it again.
        seen = tuple(replace(replay, task=self._fresh(16), dropped=True, verdict=None) for replay in case.replays)
        canary = Case(replace(case.subject, audit=audit), kind, latest_s=case.latest_s, replays=seen)
        self._cases[audit], _ = machine.apply(canary, machine.Begun(), self._clock(), self._policy)
        await self._store.save(self._cases[audit])
