"""The one thread of a node that computes: steps run on it in the order they were submitted; it keeps the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from deserve_network.ring_messages import Chunk, StageTiming
from deserve_node.engine import StepOutput
from deserve_node.engine.interface import StageEngine

__all__ = ["Compute", "Computed", "StepWork"]


@dataclass(frozen=True, slots=True)
class StepWork:
    """What to compute: the step's chunks of `microbatch`, after `released` sequences are freed.

    `inputs`: token ids int64 [tokens] at the head, else hidden states [tokens, hidden].
    """

    microbatch: int
    released: Sequence[int]
    chunks: Sequence[Chunk]
    inputs: torch.Tensor


@dataclass(frozen=True, slots=True)
class Computed:
    output: StepOutput
    timing: StageTiming


class Compute:
    """Runs an engine's steps off the event loop. Close it, so that its thread ends."""

    def __init__(self, engine: StageEngine, clock: Callable[[], float] = time.perf_counter) -> None:
        self.engine = engine
        self.busy_s = 0.0
        self.steps = 0
        self.tokens = 0
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def submit(self, work: StepWork) -> asyncio.Future[Computed]:
        """Queue a step behind those submitted before. Cancelling the future does not interrupt the thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: StepWork) -> Computed:
        started = self._clock()
        self.engine.release(work.released)
        output = self.engine.run(work.chunks, work.inputs)
        compute_s = self._clock() - started
        self.busy_s += compute_s
        self.steps += 1
        self.tokens += sum(chunk.count for chunk in work.chunks)
        return Computed(output, StageTiming(compute_s))

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
