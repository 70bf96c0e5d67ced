"""A node whose operator was drawn for a panel: it checks the evidence against the receipts, replays it and votes.

Nothing that the coordinator says is believed: the challenge is read from the ledger, the evidence must have the hash
that it names, and every chunk must be under a receipt of the accused. Evidence that is not acquits. The operator's
account votes, so its key is here; without one a node stays away from panels.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Protocol

from deserve_ledger.calls import CommitVote, RevealVote
from deserve_ledger.commitments import ChunkShown, ReceiptRoots, RowPart, chunk_fault, digest, drawn_in_chunk
from deserve_ledger.eip712 import recover
from deserve_ledger.errors import LedgerError, Refused
from deserve_ledger.identifiers import Work, ring_key
from deserve_ledger.interface import Ledger
from deserve_ledger.messages import WorkReceipt
from deserve_ledger.records import ChallengeRecord
from deserve_network.audit_messages import AUDIT, PRINT_BYTES, RowEvidence, Summons
from deserve_network.money_messages import SignedReceipt
from deserve_node.audit.verdict import Verdict
from deserve_node.audit.votes import Vote, Votes

__all__ = ["Juror", "exhibit_fault"]

log = logging.getLogger(__name__)


class Judge(Protocol):
    async def audit(self, evidence: RowEvidence, body: memoryview) -> Verdict: ...


class Juror:
    """`ledger` is the operator's account, `node_id` the node that may be drawn."""

    def __init__(self, ledger: Ledger, node_id: bytes, judge: Judge, votes: Votes, *, poll_s: float = 1.0) -> None:
        self._ledger = ledger
        self._node_id = node_id
        self._judge = judge
        self._votes = votes
        self._poll_s = poll_s
        self.voted = 0

    async def hear(self, summons: Summons, body: memoryview) -> None:
        """Make up its mind and commit to it. Raises `LedgerError`, and `NodeError` where this machine cannot replay."""
        record = await self._ledger.challenge(summons.challenge)
        if self._node_id not in record.panel or record.resolved:
            log.warning("summoned to challenge %d, on whose panel this node is not", summons.challenge)
            return
        fault = await asyncio.to_thread(exhibit_fault, summons, body, record)
        fault = fault or await self._signer_fault(summons, record)
        if fault is None:
            verdict = await self._judge.audit(summons.header.evidence, body)
            guilty, why = not verdict.passed, verdict.reason
        else:
            guilty, why = False, fault
        vote = self._votes.keep(Vote(summons.challenge, guilty, secrets.token_bytes(32)))
        await self._commit(vote)
        log.warning("challenge %d: %s %s", vote.challenge, "guilty" if vote.guilty else "not guilty", why)

    async def _signer_fault(self, summons: Summons, record: ChallengeRecord) -> str | None:
        key = (await self._ledger.node(record.node_id)).receipt_key
        for signed in summons.receipts:
            receipt = WorkReceipt(_work(signed).work_id, signed.node_id, signed.in_root, signed.out_root, signed.units)
            if recover(self._ledger.domain, receipt, signed.signature) != key:
                return f"the receipt for chunk {signed.chunk} is not signed by the accused"
        return None

    async def _commit(self, vote: Vote) -> None:
        try:
            await self._ledger.submit(CommitVote(vote.challenge, self._node_id, vote.commitment(self._node_id)))
            self.voted += 1
        except Refused as refused:
            if refused.reason != "AlreadyCommitted":
                raise

    async def run(self) -> None:
        """Open what was voted for as soon as the ledger lets it, until cancelled."""
        while True:
            try:
                await self.reveal()
            except LedgerError as error:
                log.warning("votes cannot be opened now: %s", error)
            await asyncio.sleep(self._poll_s)

    async def reveal(self) -> None:
        """Open every vote that can be opened. Raises `LedgerError`."""
        for vote in self._votes.open():
            record = await self._ledger.challenge(vote.challenge)
            now_s = await self._ledger.now_s()
            if record.resolved or now_s >= record.reveals_until_s:
                self._votes.drop(vote.challenge)
            elif now_s >= record.commits_until_s:
                try:
                    await self._ledger.submit(RevealVote(vote.challenge, self._node_id, vote.guilty, vote.salt))
                except Refused as refused:
                    if refused.reason == "TooEarly":
                        continue
                    # It was opened before, or never got there: nothing is left to be done with it.
                    log.info("challenge %d: the vote stays closed: %s", vote.challenge, refused.reason)
                self._votes.drop(vote.challenge)


def exhibit_fault(summons: Summons, body: memoryview, record: ChallengeRecord) -> str | None:
    """Why the evidence proves nothing about the challenge that `record` is; None where it may."""
    header, evidence = summons.header, summons.header.evidence
    if digest(AUDIT.encode(header) + bytes(body)) != record.evidence:
        return "the evidence is not what the challenge names"
    if body.nbytes != evidence.body_bytes or len(evidence.spans) != len(header.proofs):
        return "the evidence is not whole"
    if len(summons.receipts) != len(summons.previous_print_roots):
        return "there is not one root of fingerprints for each receipt"
    if {signed.node_id for signed in summons.receipts} != {record.node_id}:
        return "the receipts are not of the accused"
    places = {(s.job_id, s.ring, s.epoch, s.lease, s.attempt, s.stage) for s in summons.receipts}
    if len(places) != 1 or summons.receipts[0].attempt != header.attempt:
        return "the receipts are of different attempts or stages"
    if record.work_id not in {_work(signed).work_id for signed in summons.receipts}:
        return "the receipt that was challenged is not among these"
    roots = {s.chunk: (s, root) for s, root in zip(summons.receipts, summons.previous_print_roots, strict=True)}
    position = 0
    for number, span in enumerate(evidence.spans):
        if span.chunk not in roots or span.start != position:
            return f"nothing was signed for chunk {span.chunk}, or it does not follow"
        position += span.count
        signed, previous = roots[span.chunk]
        if (fault := _chunk_fault(summons, number, body, signed, previous)) is not None:
            return f"chunk {span.chunk}: {fault}"
    return None


def _chunk_fault(
    summons: Summons, number: int, body: memoryview, signed: SignedReceipt, previous_print_root: bytes
) -> str | None:
    header, evidence, tail = summons.header, summons.header.evidence, summons.header.evidence.tail
    span, proof = evidence.spans[number], header.proofs[number]
    # The row is the same in every chunk; which one it is follows from the leaf that its receipts hold.
    part = RowPart(signed.job_id, summons.row, signed.lease, header.attempt, span.start, span.count)
    layers, size = (evidence.first, evidence.last), evidence.token_bytes
    inputs = bytes(body[span.start * size : (span.start + span.count) * size])
    roots = ReceiptRoots(
        _work(signed).work_id, signed.in_root, signed.out_root, signed.wire_root, signed.print_root, previous_print_root
    )
    if tail is not None:
        drawn = drawn_in_chunk(part, len(tail.prompt) + len(tail.generated), tail.drawn)
        if drawn is None:
            return "tokens that it drew are missing"
        return chunk_fault(
            ChunkShown(
                part, *layers, inputs, proof.in_path, drawn=drawn[1], first_drawn=drawn[0], out_path=proof.out_path
            ),
            roots,
        )
    begin = evidence.tokens * size + span.start * PRINT_BYTES
    prints = bytes(body[begin : begin + span.count * PRINT_BYTES])
    return chunk_fault(ChunkShown(part, *layers, inputs, proof.in_path, prints, span.seed, proof.print_path), roots)


def _work(signed: SignedReceipt) -> Work:
    place = (signed.epoch, signed.lease, signed.attempt, signed.stage, signed.chunk)
    return Work(signed.job_id, ring_key(signed.ring), *place)
