"""A stage behind the head: receive a step, compute it, send it on; at the tail, send the tokens back to the head.

Frames are taken in the order in which the head scheduled them. While a step computes, the next one is received, checked
and queued, and the last one is sent. What a neighbour declares is checked before it costs anything.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from deserve_network.link import Link
from deserve_network.ring_messages import MAX_CHUNKS, Admit, Chunk, ChunkClosed, Sampled, Step, Tune
from deserve_node.proof.committer import Committer, label_fault
from deserve_node.proof.passage import Passage
from deserve_node.ring.compute import Compute, Computed, StepWork
from deserve_node.ring.head import STEPS_IN_LINE, RingProtocolError
from deserve_node.ring.payload import (
    pack_payload,
    packed_runs,
    plain_outputs,
    received_runs,
    segment_fault,
    unpack_payload,
)
from deserve_node.tensors import DTYPES

__all__ = ["ADMIT_DEADLINE_S", "Stage", "Tail"]

ADMIT_DEADLINE_S = 30.0
"""How long a tail waits for the Admit of a sequence whose first chunk is already here."""


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step that computes, with the payload that it came with where that is committed to."""

    step: Step
    payload: memoryview
    computing: asyncio.Future[Computed]


Item = _Submitted | Tune | ChunkClosed


class Stage:
    """A middle stage. Runs until cancelled or a link fails, which it raises; `committer` is told of all that passes."""

    def __init__(
        self,
        ring: str,
        epoch: int,
        *,
        compute: Compute,
        previous: Link,
        following: Link,
        committer: Committer | None = None,
    ) -> None:
        self._ring = ring
        self._epoch = epoch
        self._compute = compute
        self._previous = previous
        self._following = following
        """The next stage; at the tail, the head."""
        self._committer = committer
        self._lengths: dict[int, int] = {}
        """Positions of each sequence that have been computed here."""

    async def run(self) -> None:
        """Compute steps as they come. Raises `LinkLost`, `RingProtocolError`, `PayloadError` and `CommitmentMismatch`,
        in an exception group."""
        submitted: asyncio.Queue[Item] = asyncio.Queue(STEPS_IN_LINE)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(submitted), name=f"{self._ring} receive")
            tasks.create_task(self._send(submitted), name=f"{self._ring} send")
            if self._committer is not None:
                tasks.create_task(self._committer.run(self._following.send), name=f"{self._ring} commit")

    async def _receive(self, submitted: asyncio.Queue[Item]) -> None:
        while True:
            frame = await self._previous.receive()
            message = frame.message
            if not isinstance(message, Step | Tune | ChunkClosed) or (message.ring, message.epoch) != (
                self._ring,
                self._epoch,
            ):
                raise RingProtocolError(
                    f"{self._previous.peer_id} sent {_described(message)}, not a Step of {self._ring}/{self._epoch}"
                )
            if isinstance(message, Tune):
                if (fault := self._compute.tune_fault(message)) is not None:
                    raise RingProtocolError(f"{self._previous.peer_id} sent a Tune with {fault}")
                self._compute.tune(message)
                await submitted.put(message)
                continue
            if isinstance(message, ChunkClosed):
                await submitted.put(message)
                continue
            self._check(message)
            await self._prepare(message)
            inputs = await unpack_payload(frame.payload, message)
            work = StepWork(message.microbatch, message.released, message.chunks, inputs)
            payload = memoryview(b"") if self._committer is None else frame.payload
            await submitted.put(_Submitted(message, payload, self._compute.submit(work)))

    async def _prepare(self, step: Step) -> None:
        """Whatever must be known before a step may compute."""

    async def _send(self, submitted: asyncio.Queue[Item]) -> None:
        while True:
            item = await submitted.get()
            if isinstance(item, Tune):
                self._following.coalesce = item.coalesce
                await self._pass_on(item)
            elif isinstance(item, ChunkClosed):
                if self._committer is not None:
                    await self._committer.said(item)
            else:
                await self._deliver(item.step, await item.computing, item.payload)

    async def _pass_on(self, tune: Tune) -> None:
        await self._following.send(tune)

    async def _deliver(self, step: Step, computed: Computed, payload: memoryview) -> None:
        hidden = computed.output.hidden
        assert hidden is not None
        onward = dataclasses.replace(step, timings=(*step.timings, computed.timing_on(self._following)))
        packed = await pack_payload(hidden, step.segments)
        await self._following.send(onward, packed)
        if (committer := self._committer_of(step)) is not None:
            left, outputs = packed_runs(packed, step.segments), await plain_outputs(hidden, step.segments)
            await committer.passed(step.step, Passage.of(step.chunks, received_runs(payload, step), left, outputs))

    def _committer_of(self, step: Step) -> Committer | None:
        """Who has to know of a step that has been sent; None where nobody pays for any of its rows."""
        if (committer := self._committer) is None:
            return None
        committer.rows(step.labels, step.released)
        return committer if committer.concerns(step.chunks) else None

    def _check(self, step: Step) -> None:
        shard = self._compute.engine.shard
        if (fault := segment_fault(step)) is not None:
            raise RingProtocolError(f"step {step.step} declares {fault}")
        if DTYPES.get(step.dtype) is not shard.dtype or step.hidden != shard.hidden_size:
            raise RingProtocolError(
                f"step in {step.dtype} of width {step.hidden}, this stage has {shard.dtype}, {shard.hidden_size}"
            )
        if not step.chunks or sum(chunk.count for chunk in step.chunks) != step.tokens:
            raise RingProtocolError(f"step {step.step} declares chunks that do not make {step.tokens} tokens")
        if len({chunk.sequence for chunk in step.chunks}) != len(step.chunks):
            raise RingProtocolError(f"step {step.step} has two chunks of one sequence")
        if (fault := label_fault(step)) is not None:
            raise RingProtocolError(f"step {step.step} has {fault}")
        for sequence in step.released:
            self._lengths.pop(sequence, None)
        for chunk in step.chunks:
            self._check_chunk(chunk, shard.context_length)
            self._lengths[chunk.sequence] = chunk.start + chunk.count

    def _check_chunk(self, chunk: Chunk, context_length: int) -> None:
        """Each chunk goes on where the last one of its sequence ended: KV that nobody wrote is never read."""
        known = self._lengths.get(chunk.sequence, 0)
        if chunk.sequence < 0 or chunk.count < 1 or chunk.start != known or not 0 <= chunk.wanted <= chunk.count:
            raise RingProtocolError(f"{chunk} does not follow on the {known} tokens of its sequence")
        if chunk.start + chunk.count > context_length:
            raise RingProtocolError(f"{chunk} exceeds the context of {context_length} tokens")


class Tail(Stage):
    """The last stage: it learns of sequences from the head directly, and answers it with tokens."""

    def __init__(
        self,
        ring: str,
        epoch: int,
        *,
        compute: Compute,
        previous: Link,
        head: Link,
        committer: Committer | None = None,
        admit_deadline_s: float = ADMIT_DEADLINE_S,
    ) -> None:
        super().__init__(ring, epoch, compute=compute, previous=previous, following=head, committer=committer)
        self._admit_deadline_s = admit_deadline_s
        self._admitted = asyncio.Condition()
        self._expected: set[int] = set()
        """Sequences that were admitted and have not come yet."""

    async def run(self) -> None:
        """Both halves until one fails. Raises what `Stage.run` does, in an exception group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name=f"{self._ring} tail")
            tasks.create_task(self._learn(), name=f"{self._ring} admissions")

    async def _learn(self) -> None:
        while True:
            admit = (await self._following.receive()).message
            if not isinstance(admit, Admit) or (admit.ring, admit.epoch) != (self._ring, self._epoch):
                raise RingProtocolError(
                    f"the head sent {_described(admit)}, not an Admit of {self._ring}/{self._epoch}"
                )
            self._check_admit(admit)
            if self._committer is not None:
                self._committer.admitted(admit)
            async with self._admitted:
                self._expected.add(admit.sequence)
                self._compute.engine.admit(admit)
                self._admitted.notify_all()

    def _check_admit(self, admit: Admit) -> None:
        engine = self._compute.engine
        if admit.sequence < 0 or engine.knows(admit.sequence):
            raise RingProtocolError(f"the head admitted sequence {admit.sequence} twice")
        # The head admits a row in the step before its first chunk: more than a step's worth is no honest head.
        if len(self._expected) >= MAX_CHUNKS:
            raise RingProtocolError(f"the head admitted {MAX_CHUNKS} sequences that never came")
        ids = (*admit.prompt, *admit.generated)
        if not ids or min(ids) < 0 or max(ids) >= engine.shard.vocab_size:
            raise RingProtocolError(f"the head admitted sequence {admit.sequence} with ids outside the vocabulary")

    async def _prepare(self, step: Step) -> None:
        await self._await_admission({chunk.sequence for chunk in step.chunks})
        # A row can be preempted or cancelled before its first chunk: nothing of it comes any more.
        self._expected.difference_update(step.released)

    async def _pass_on(self, tune: Tune) -> None:
        """The head has it already."""

    async def _deliver(self, step: Step, computed: Computed, payload: memoryview) -> None:
        output = computed.output
        await self._following.send(
            Sampled(
                self._ring,
                self._epoch,
                step.step,
                step.microbatch,
                output.drawn,
                output.scored,
                output.failed,
                (*step.timings, computed.timing_on(self._following)),
            )
        )
        if (committer := self._committer_of(step)) is not None:
            await committer.passed(step.step, Passage.of(step.chunks, received_runs(payload, step), drawn=output.drawn))

    async def _await_admission(self, sequences: set[int]) -> None:
        knows = self._compute.engine.knows
        try:
            async with asyncio.timeout(self._admit_deadline_s), self._admitted:
                await self._admitted.wait_for(lambda: all(map(knows, sequences)))
        except TimeoutError:
            missing = min(sequence for sequence in sequences if not knows(sequence))
            raise RingProtocolError(
                f"the head did not admit sequence {missing} within {self._admit_deadline_s:g} s"
            ) from None
        self._expected -= sequences


def _described(message: object) -> str:
    epoch = f" of {getattr(message, 'ring', '?')}/{getattr(message, 'epoch', '?')}"
    return f"{type(message).__name__}{epoch}"
