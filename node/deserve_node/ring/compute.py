"""The one thread of a node that computes: steps run on it in order, and it keeps the time that it was busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine import Engine, StepOutput

__all__ = ["Compute"]


class Compute:
    """Runs an engine's steps off the event loop. Close it, so that its thread ends."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self.engine = engine
        self.busy_s = 0.0
        self.steps = 0
        self.tokens = 0
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    async def step(self, released: Sequence[int], chunks: Sequence[Chunk], inputs: torch.Tensor) -> StepOutput:
        """Free, run, and return a step's output. Cancelling the caller does not interrupt the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, released, chunks, inputs)

    def _run(self, released: Sequence[int], chunks: Sequence[Chunk], inputs: torch.Tensor) -> StepOutput:
        started = self._clock()
        self.engine.release(released)
        output = self.engine.run(chunks, inputs)
        self.busy_s += self._clock() - started
        self.steps += 1
        self.tokens += sum(chunk.count for chunk in chunks)
        return output

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
