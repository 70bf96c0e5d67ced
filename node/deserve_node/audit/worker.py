"""One audit task from evidence to verdict, and the thread of a node in which tasks wait for each other."""

from __future__ import annotations

import functools
import logging

import torch

from deserve_models import ModelFiles
from deserve_network.audit_messages import RowEvidence
from deserve_node.audit.draws import judge_draws
from deserve_node.audit.errors import EvidenceInvalid, ReplayImpossible
from deserve_node.audit.evidence import CommittedRow, WireOutputs, outputs_of, read_evidence
from deserve_node.audit.profile import ToleranceProfile
from deserve_node.audit.replay import Replayer
from deserve_node.audit.verdict import Bounds, Judgement, Verdict, failure, judge, print_errors, wire_errors
from deserve_node.background import BackgroundThread
from deserve_node.tensors import DTYPES

__all__ = ["AuditWorker", "audit_row", "replay_and_judge"]

log = logging.getLogger(__name__)

Following = tuple[RowEvidence, memoryview]
"""What the next stage shows of the same row, or only its inputs."""


class AuditWorker:
    """Audits of one model for one node. `memory_bytes` bounds the weights that a replay holds, in float32."""

    def __init__(
        self,
        files: ModelFiles,
        profile: ToleranceProfile,
        thread: BackgroundThread,
        *,
        device: torch.device,
        memory_bytes: int,
    ) -> None:
        self._profile = profile
        self._thread = thread
        self._replayer = Replayer(files, dtype=DTYPES[profile.dtype], device=device, memory_bytes=memory_bytes)

    async def audit(
        self, evidence: RowEvidence, body: memoryview, *, following: Following | None = None, keep: bool = False
    ) -> Verdict:
        """The verdict on one row; waits for what else the thread has to do. `keep` leaves the layers in memory for a
        next task on them. Raises `ReplayImpossible`, `ToleranceInvalid` and `ShardError`, which say nothing of the row.
        """
        return await self._thread.run(functools.partial(self._audit, evidence, body, following, keep))

    def _audit(self, evidence: RowEvidence, body: memoryview, following: Following | None, keep: bool) -> Verdict:
        try:
            return audit_row(self._replayer, self._profile, evidence, body, following)
        finally:
            if not keep:
                self._replayer.drop()


def audit_row(
    replayer: Replayer,
    profile: ToleranceProfile,
    evidence: RowEvidence,
    body: memoryview,
    following: Following | None = None,
) -> Verdict:
    """Read `body`, replay and judge. Evidence that contradicts itself fails at once. Raises as `AuditWorker`."""
    try:
        if evidence.dtype != profile.dtype:
            raise EvidenceInvalid("dtype", f"{evidence.dtype} where stages compute in {profile.dtype}")
        committed = read_evidence(evidence, body, replayer.summary)
        wire = None if following is None else outputs_of(committed, *following, replayer.summary)
    except EvidenceInvalid as error:
        return failure(str(error))
    verdict = replay_and_judge(replayer, profile.of(committed.first, committed.last), committed, wire)
    log.info("layers [%d, %d), %d tokens: %s", committed.first, committed.last, committed.tokens, verdict)
    return verdict


def replay_and_judge(
    replayer: Replayer, bounds: Bounds, committed: CommittedRow, wire: WireOutputs | None = None
) -> Verdict:
    """Compute the row again and hold what was committed to against it."""
    if committed.tail is not None:
        return Verdict.of((_draws(replayer, bounds, committed),))
    outputs = replayer.outputs(committed.first, committed.last, committed.inputs)
    # Behind an input that is not finite nothing is: the stage before is to blame, and no position before sees it.
    sound = _finite_positions(committed.inputs)
    if not sound:
        return Verdict.of(())
    judgements = judge(print_errors(committed, outputs)[:sound], bounds.prints, "error of a fingerprint")
    if wire is not None and (bound := bounds.wires(wire.codec)) is not None:
        judgements += judge(wire_errors(wire, outputs)[:sound], bound, "error on the wire")
    return Verdict.of(judgements)


def _finite_positions(inputs: torch.Tensor) -> int:
    """How many positions come before the first that is not finite."""
    if inputs.dtype is torch.int64:
        return len(inputs)
    broken = torch.nonzero(~inputs.isfinite().all(dim=1))
    return int(broken[0]) if len(broken) else len(inputs)


def _draws(replayer: Replayer, bounds: Bounds, committed: CommittedRow) -> Judgement:
    assert committed.tail is not None
    if not bounds.logits:
        raise ReplayImpossible("the tolerances of the last stage have none for draws")
    pieces = replayer.logits(committed.first, committed.inputs, len(committed.tail.drawn))
    return judge_draws(committed.tail, pieces, bounds.logits)
