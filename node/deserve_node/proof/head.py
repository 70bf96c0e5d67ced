"""What the head of a ring does for commitments beside a stage's part: it ends chunks early, and checks the tail.

A chunk ends after 64 steps, or sooner: when the ring has nothing to do, so that what is finished is signed for, and
when its hidden states fill the memory that stages have for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from deserve_ledger.identifiers import CHUNK_STEPS
from deserve_network.ring_messages import ChunkClosed, RowLabel, Sampled, SampledToken
from deserve_node.proof.committer import Committer
from deserve_node.proof.drawn import DrawnTokens
from deserve_node.proof.passage import Passage, Run, ids_run
from deserve_node.ring.step_plan import StepPlan

__all__ = ["CHUNK_BYTES", "HeadCommitments"]

CHUNK_BYTES = 32 << 20
"""Of hidden states, as computed, in one chunk: a stage holds what came and what left until the chunk is hashed."""


class HeadCommitments:
    """`tail`: peer id of the stage that sends tokens back; empty in a ring of one."""

    def __init__(self, committer: Committer, tail: str = "", *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.committer = committer
        position = committer.position
        self._most_tokens = chunk_bytes // (position.hidden * position.dtype.itemsize)
        self._chunk = -1
        self._tokens = 0
        self._drawn = DrawnTokens(position, tail) if tail else None

    @property
    def settled(self) -> bool:
        """Whether all that has passed is signed for, here and at the tail."""
        return self.committer.settled and (self._drawn is None or self._drawn.settled)

    def fills(self, plan: StepPlan) -> bool:
        """Whether the chunk is full with this step, which is about to be computed."""
        chunk = plan.step // CHUNK_STEPS
        if chunk != self._chunk:
            self._chunk, self._tokens = chunk, 0
        self._tokens += len(plan.token_ids)
        return self._tokens >= self._most_tokens

    def begin(self, plan: StepPlan, labels: Sequence[RowLabel]) -> None:
        """A step is about to leave, with the labels of rows that begin with it."""
        self.committer.rows(labels, plan.released)
        if self._drawn is not None:
            self._drawn.rows(plan.step, labels, plan.released)

    async def left(self, plan: StepPlan, left: Sequence[Run], outputs: memoryview | None) -> None:
        """A step is about to be sent to the next stage; what, as `Passage` has it."""
        if self.committer.concerns(plan.chunks):
            passage = Passage.of(plan.chunks, [ids_run(plan.token_ids)], left, outputs)
            await self.committer.passed(plan.step, passage)

    async def drew(self, plan: StepPlan, drawn: Sequence[SampledToken]) -> None:
        """A step of a ring of one is done."""
        if self.committer.concerns(plan.chunks):
            passage = Passage.of(plan.chunks, [ids_run(plan.token_ids)], drawn=drawn)
            await self.committer.passed(plan.step, passage)

    def returned(self, sampled: Sampled) -> None:
        """The tail's answer to a step."""
        if self._drawn is not None:
            self._drawn.came(sampled.step, sampled.drawn)

    def tail_closed(self, message: ChunkClosed) -> None:
        """What the tail commits to. Raises `CommitmentMismatch` where those are not the tokens that came."""
        if self._drawn is not None:
            self._drawn.check(message)
