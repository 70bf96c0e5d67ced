"""This node's side of the audit stream: it shows what it is asked for, and replays what others did.

One task reads the stream and never computes; evidence leaves one row at a time, and replays wait for each other on the
judge's thread. A verdict is committed to first and told when everybody has committed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from deserve_ledger.draw import PPM, DrawnWork, is_drawn, verdict_commitment
from deserve_ledger.errors import LedgerError
from deserve_network.audit_messages import (
    AuditCommit,
    AuditDeclined,
    AuditReveal,
    AuditTask,
    EvidencePart,
    EvidenceRequest,
    NoEvidence,
    RevealRequest,
    RowEvidence,
    RowsOver,
    Summons,
)
from deserve_network.errors import NetworkError, ProtocolError
from deserve_node.audit.exhibit import Exhibit
from deserve_node.audit.juror import Juror
from deserve_node.audit.verdict import Verdict
from deserve_node.errors import NodeError

__all__ = ["MOST_TASK_BYTES", "Clerk", "Judge"]

log = logging.getLogger(__name__)

MOST_TASK_BYTES = 1 << 30
"""Of evidence that this node takes into memory for a replay."""


class AuditChannel(Protocol):
    """What is used of `deserve_network.channel.Channel`."""

    async def send(self, message: object) -> None: ...
    async def receive(self) -> Any: ...


class Judge(Protocol):
    """Who replays; `audit.worker.AuditWorker`."""

    async def audit(self, evidence: RowEvidence, body: memoryview) -> Verdict:
        """Raises `NodeError` where this machine cannot say."""


@dataclass(slots=True)
class _Incoming:
    """A task or summons whose parts are on their way."""

    message: AuditTask | Summons
    body: bytearray

    @property
    def audit(self) -> bytes:
        return self.message.audit if isinstance(self.message, AuditTask) else self.message.header.audit

    @property
    def evidence(self) -> RowEvidence:
        return self.message.evidence if isinstance(self.message, AuditTask) else self.message.header.evidence


class Clerk:
    """Of one node, which is paid as `node_id`. `judge` None: it audits nobody; `juror` None: it votes on no challenge.

    `show(request)` blocks, and raises `NodeError` where nothing is there. `over(job_id, row)` hears that a row's
    evidence is not needed any more.
    """

    def __init__(
        self,
        show: Callable[[EvidenceRequest], Exhibit],
        judge: Judge | None,
        *,
        node_id: bytes,
        juror: Juror | None = None,
        over: Callable[[bytes, int], None] = lambda job_id, row: None,
        most_task_bytes: int = MOST_TASK_BYTES,
    ) -> None:
        self._show = show
        self._judge = judge
        self._node_id = node_id
        self._juror = juror
        self._over = over
        self._most_task_bytes = most_task_bytes
        self.heard = 0
        """Messages of the coordinator."""
        self.shown = 0
        self.judged = 0
        self.unfair = 0
        """Times that it was asked about work that the draw does not name."""

    async def talk(self, channel: AuditChannel) -> None:
        """Until the channel ends. Raises the `NetworkError` that ended it."""
        asked: asyncio.Queue[EvidenceRequest] = asyncio.Queue()
        verdicts: dict[bytes, AuditReveal] = {}
        incoming: _Incoming | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._exhibit(channel, asked))
            while True:
                message = await channel.receive()
                self.heard += 1
                match message:
                    case EvidenceRequest():
                        asked.put_nowait(message)
                    case AuditTask() if message.evidence.body_bytes > self._most_task_bytes or self._judge is None:
                        reason = "it does not audit" if self._judge is None else "the evidence is too large for it"
                        await channel.send(AuditDeclined(message.audit, reason))
                    case Summons() if message.header.evidence.body_bytes > self._most_task_bytes or self._juror is None:
                        log.warning("summoned to challenge %d, on which this node cannot vote", message.challenge)
                    case AuditTask() | Summons():
                        incoming = _Incoming(message, bytearray())
                    case EvidencePart() if incoming is not None and message.audit == incoming.audit:
                        self._take(incoming, message)
                        if len(incoming.body) == incoming.evidence.body_bytes:
                            group.create_task(self._answer(channel, incoming, verdicts))
                            incoming = None
                    case EvidencePart():
                        log.debug("a part of what this node has declined")
                    case RowsOver():
                        for row in message.rows:
                            self._over(message.job_id, row)
                    case RevealRequest():
                        if (verdict := verdicts.pop(message.audit, None)) is not None:
                            await channel.send(verdict)
                    case _:
                        raise ProtocolError(f"a coordinator does not send {type(message).__name__}")

    def _take(self, incoming: _Incoming, part: EvidencePart) -> None:
        size = len(incoming.body)
        if part.offset != size or size + len(part.data) > incoming.evidence.body_bytes:
            raise ProtocolError(f"a part at {part.offset} where {size} bytes have come")
        incoming.body += part.data

    async def _exhibit(self, channel: AuditChannel, asked: asyncio.Queue[EvidenceRequest]) -> None:
        while True:
            request = await asked.get()
            self._check_draw(request)
            try:
                found = await asyncio.to_thread(self._show, request)
                await channel.send(found.header)
                parts = found.parts()
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    await channel.send(part)
                self.shown += 1
            except NodeError as error:
                log.warning("row %d of %s cannot be shown: %s", request.row, request.ring, error)
                await channel.send(NoEvidence(request.audit, str(error)[:1024]))

    def _check_draw(self, request: EvidenceRequest) -> None:
        """A refusal would only be held against this node: it shows what it has, and its operator is told."""
        drawn = request.drawn
        work = DrawnWork(self._node_id, request.job_id, request.row, request.lease, request.stage)
        fair = drawn.rate_ppm <= PPM and is_drawn(
            work, anchor=drawn.anchor, beacon=drawn.beacon, rate_ppm=drawn.rate_ppm
        )
        if not fair:
            self.unfair += 1
            log.warning("row %d of %s is audited, and no draw says so", request.row, request.ring)

    async def _answer(self, channel: AuditChannel, incoming: _Incoming, verdicts: dict[bytes, AuditReveal]) -> None:
        if isinstance(incoming.message, Summons):
            await self._vote(incoming.message, memoryview(incoming.body))
        else:
            await self._replay(channel, incoming.message, memoryview(incoming.body), verdicts)

    async def _vote(self, summons: Summons, body: memoryview) -> None:
        assert self._juror is not None
        try:
            await self._juror.hear(summons, body)
        except (LedgerError, NodeError) as error:
            log.warning("no vote on challenge %d: %s", summons.challenge, error)

    async def _replay(
        self, channel: AuditChannel, task: AuditTask, body: memoryview, verdicts: dict[bytes, AuditReveal]
    ) -> None:
        assert self._judge is not None
        audit = task.audit
        try:
            try:
                verdict = await self._judge.audit(task.evidence, body)
            except NodeError as error:
                log.warning("an audit task is declined: %s", error)
                await channel.send(AuditDeclined(audit, str(error)[:1024]))
                return
            said = AuditReveal(
                audit,
                verdict.passed,
                verdict.error_ppm,
                verdict.position,
                verdict.reason[:256],
                secrets.token_bytes(32),
            )
            commitment = verdict_commitment(
                audit, passed=said.passed, error_ppm=said.error_ppm, position=said.position, salt=said.salt
            )
            verdicts[audit] = said
            self.judged += 1
            await channel.send(AuditCommit(audit, commitment))
        except NetworkError as error:
            log.info("a verdict has nobody to go to: %s", error)
