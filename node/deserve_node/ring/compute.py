"""The one thread of a node that computes: steps run on it in the order they were submitted; it keeps the time.

Where pages are swapped, those of a step start to come in when it is submitted, while earlier steps compute. Where a
device computes, the thread only queues steps on it, and another waits for them to end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from deserve_network.link import Link
from deserve_network.ring_messages import Chunk, StageTiming, Tune
from deserve_node.engine import StepOutput
from deserve_node.engine.interface import StageEngine
from deserve_node.engine.swap import Swapper
from deserve_node.timed.pace import Pace
from deserve_node.wallet.clearance import Clearance

__all__ = ["Compute", "Computed", "StepWork"]

SWAP_WAIT_S = 0.0005
"""A step that has waited for its pages longer than a thread takes to look has begun when they were there."""


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

    def timing_on(self, onward: Link) -> StageTiming:
        """For the head, with how far away the stage is that the step goes to next."""
        return dataclasses.replace(self.timing, rtt_s=onward.rtt_s)


class Compute:
    """Runs an engine's steps off the event loop: those of stage `stage`, whose pages `swapper` swaps if there is one.

    Close it, so that its threads end.
    """

    def __init__(
        self,
        engine: StageEngine,
        swapper: Swapper | None = None,
        *,
        stage: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        pace: Pace | None = None,
        clearance: Clearance | None = None,
    ) -> None:
        """`pace` keeps the time of an engine that only says how long steps take. No step begins without `clearance`."""
        self.engine = engine
        self._swapper = swapper
        self._stage = stage
        self.busy_s = 0.0
        self.steps = 0
        self.tokens = 0
        self._clock = clock
        self._pace = pace or Pace(clock)
        self._clearance = clearance
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._ends = ThreadPoolExecutor(1, thread_name_prefix="step-ends") if engine.queues else None

    def submit(self, work: StepWork) -> asyncio.Future[Computed]:
        """Queue a step behind those submitted before. Cancelling the future does not interrupt the thread."""
        number = -1 if self._swapper is None else self._swapper.begin(work.microbatch, work.released, work.chunks)
        computing = self._thread.submit(self._run, work, number, self._clock())
        if self._ends is not None:
            computing = self._ends.submit(self._end, computing)
        return asyncio.wrap_future(computing)

    def tune_fault(self, tune: Tune) -> str | None:
        """What of `tune` cannot be, in words; None for a sound one."""
        for name in ("microbatches", "prefetch_depth", "coalesce"):
            if getattr(tune, name) < 1:
                return f"{name} {getattr(tune, name)}"
        if min(tune.swap_pages, default=0) < 0 or (self._swapper is not None and len(tune.swap_pages) <= self._stage):
            return f"swap_pages {tune.swap_pages}"
        return None

    def tune(self, tune: Tune) -> None:
        """From the next step on, this plan holds."""
        if self._swapper is not None:
            self._swapper.tune(tune.microbatches, tune.swap_pages[self._stage], tune.prefetch_depth)

    def forget(self, sequences: Sequence[int]) -> None:
        """Free what is held for these sequences. For a time when no step is submitted."""
        self.engine.release(sequences)
        if self._swapper is not None:
            self._swapper.forget(sequences)

    @property
    def pages_used(self) -> int:
        """KV pages that sequences hold, in either memory."""
        return self.engine.cache.pages_used if self._swapper is None else self._swapper.pages_used

    def _run(self, work: StepWork, number: int, submitted_s: float) -> Computed:
        if self._clearance is not None:
            self._clearance.wait()
        tables, swap_s = (None, 0.0) if self._swapper is None else self._swapper.wait(number)
        started = self._clock()
        self.engine.release(work.released)
        output = self.engine.run(work.chunks, work.inputs, tables)
        if output.takes_s is not None:
            self._pace.hold(started if swap_s > SWAP_WAIT_S else submitted_s, output.takes_s)
        if self._swapper is not None:
            self._swapper.end(number)
        compute_s = self._clock() - started if output.takes_s is None else output.takes_s
        if output.span is None:
            self.busy_s += compute_s
        self.steps += 1
        self.tokens += sum(chunk.count for chunk in work.chunks)
        return Computed(output, StageTiming(compute_s, swap_s))

    def _end(self, queued: Future[Computed]) -> Computed:
        """The step once its device has computed it, with the time that took there."""
        computed = queued.result()
        if computed.output.span is None:
            return computed
        compute_s = computed.output.span.wait()
        self.busy_s += compute_s
        return dataclasses.replace(computed, timing=dataclasses.replace(computed.timing, compute_s=compute_s))

    def close(self) -> None:
        # First, so that no step waits for pay or for pages that will not come.
        if self._clearance is not None:
            self._clearance.dismiss()
        if self._swapper is not None:
            self._swapper.close()
        # Before the thread whose steps it waits for, so that none of those it still holds is cancelled under it.
        if self._ends is not None:
            self._ends.shutdown(wait=True, cancel_futures=True)
        self._thread.shutdown(wait=True, cancel_futures=True)
