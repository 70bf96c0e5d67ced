"""A stage behind the head: receive a step, compute it, send it on; at the tail, send the tokens back to the head.

Frames are taken in the order in which the head scheduled them. While a step computes, the link receives the next one
and sends the last one: both happen on other threads.
"""

from __future__ import annotations

import asyncio
import logging

from deserve_network.link import Link
from deserve_network.ring_messages import Admit, Sampled, Step
from deserve_node.ring.compute import Compute
from deserve_node.ring.head import RingProtocolError
from deserve_node.tensors import DTYPES, from_bytes, to_bytes

__all__ = ["Stage", "Tail"]

log = logging.getLogger(__name__)

ADMIT_DEADLINE_S = 30.0
"""How long a tail waits for the Admit of a sequence whose first chunk is already here."""


class Stage:
    """A middle stage. Runs until cancelled or a link fails, which it raises."""

    def __init__(self, ring: str, epoch: int, *, compute: Compute, previous: Link, following: Link) -> None:
        self._ring = ring
        self._epoch = epoch
        self._compute = compute
        self._previous = previous
        self._following = following
        """The next stage; at the tail, the head."""

    async def run(self) -> None:
        """Compute steps as they come. Raises `LinkLost`, `RingProtocolError`, `PayloadError`."""
        while True:
            frame = await self._previous.receive()
            step = frame.message
            if not isinstance(step, Step) or (step.ring, step.epoch) != (self._ring, self._epoch):
                raise RingProtocolError(
                    f"{self._previous.peer_id} sent {type(step).__name__}, not a Step of {self._ring}"
                )
            self._check(step)
            await self._step(step, frame.payload)

    def _check(self, step: Step) -> None:
        shard = self._compute.engine.shard
        declared = sum(chunk.count for chunk in step.chunks)
        if step.codec != "raw":
            raise RingProtocolError(f"codec {step.codec!r} is not one of this ring's")
        if DTYPES.get(step.dtype) is not shard.dtype or step.hidden != shard.hidden_size:
            raise RingProtocolError(
                f"step in {step.dtype} of width {step.hidden}, this stage has {shard.dtype}, {shard.hidden_size}"
            )
        if declared != step.tokens or any(
            c.count < 1 or c.start < 0 or not 0 <= c.wanted <= c.count or c.start + c.count > shard.context_length
            for c in step.chunks
        ):
            raise RingProtocolError(f"step {step.step} declares chunks that do not make {step.tokens} tokens")

    async def _step(self, step: Step, payload: memoryview) -> None:
        inputs = from_bytes(payload, (step.tokens, step.hidden), DTYPES[step.dtype])
        output = await self._compute.step(step.released, step.chunks, inputs)
        assert output.hidden is not None
        await self._following.send(step, [to_bytes(output.hidden)])


class Tail(Stage):
    """The last stage: it learns of sequences from the head directly, and answers it with tokens."""

    def __init__(self, ring: str, epoch: int, *, compute: Compute, previous: Link, head: Link) -> None:
        super().__init__(ring, epoch, compute=compute, previous=previous, following=head)
        self._admitted = asyncio.Condition()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name=f"{self._ring} tail")
            tasks.create_task(self._learn(), name=f"{self._ring} admissions")

    async def _learn(self) -> None:
        while True:
            admit = (await self._following.receive()).message
            if not isinstance(admit, Admit) or (admit.ring, admit.epoch) != (self._ring, self._epoch):
                raise RingProtocolError(f"the head sent {type(admit).__name__}, not an Admit of {self._ring}")
            async with self._admitted:
                self._compute.engine.admit(admit)
                self._admitted.notify_all()

    async def _step(self, step: Step, payload: memoryview) -> None:
        engine = self._compute.engine
        inputs = from_bytes(payload, (step.tokens, step.hidden), DTYPES[step.dtype])
        async with asyncio.timeout(ADMIT_DEADLINE_S), self._admitted:
            await self._admitted.wait_for(lambda: all(engine.knows(chunk.sequence) for chunk in step.chunks))
        output = await self._compute.step(step.released, step.chunks, inputs)
        await self._following.send(
            Sampled(self._ring, self._epoch, step.step, step.microbatch, output.drawn, output.scored)
        )
