"""What a step costs the head of a ring in Python: its own work on the event loop, but waiting.

The real head, scheduler, planner, row bookkeeping, text and ring messages run between a stage 0 that computes nothing
and a tail that draws fixed tokens. Rows decode in steady state, end at random lengths and are replaced. What the
stand-ins for the other stages take is left out, and so is what other threads do (opening rows).

A node's event loop does more, which is not measured here: the carrier (sockets, framing, encryption, payloads of real
width), control messages to and from the coordinator (leases, results, heartbeats), the hand-over of steps to the thread
that computes, and the status page.

`python tests/benchmarks/head.py` prints milliseconds of the event loop's thread per step, and how much the process grew
over the measured steps; `--json` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from deserve_models import resolve
from deserve_network.control_messages import Lease, LeasedRow, RowResult
from deserve_network.ring_messages import RING, Admit, Sampled, SampledToken, StageTiming, Step, Tune
from deserve_node.engine import PoolShape, StepOutput
from deserve_node.ring.compute import Computed, StepWork
from deserve_node.ring.desk import HeadLinks
from deserve_node.ring.head import Head
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.planning import Planner
from deserve_node.ring.scheduler import Scheduler
from deserve_plan.cost import StageCost
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory
from deserve_plan.plan import PlanOverrides
from deserve_text.tokenizer import TextModel

STAGES = 4
HIDDEN = 8
PROMPT_TOKENS = 32
NEW_TOKENS = 64
"""Rows generate 1 to twice as many."""
STAGE_S = 0.05
PAGES = 1 << 20
PARTS = 10
"""Of the measured steps: on a machine that does other things, the quietest says what the code takes."""


class FreeCompute:
    """A stage 0 whose steps are done when they are submitted."""

    def __init__(self) -> None:
        self.hidden = torch.zeros(1 << 14, HIDDEN)

    def submit(self, work: StepWork) -> asyncio.Future[Computed]:
        done: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        done.set_result(Computed(StepOutput(hidden=self.hidden[: len(work.inputs)]), StageTiming(STAGE_S)))
        return done

    def tune(self, tune: Tune) -> None:
        """Nothing is swapped here."""


class Ring:
    """Everything behind the head: both its links, the other stages and the tail. `spent_s` is what that took."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._steps: deque[Step] = deque()
        self._came = asyncio.Event()
        self.spent_s = 0.0
        self.steps = 0
        self.rtt_s = 0.0

    async def send(self, message: object, payload: Sequence[memoryview] = ()) -> None:
        if isinstance(message, Step | Tune | Admit):
            RING.encode(message)
        if isinstance(message, Step):
            self._steps.append(message)
            self._came.set()

    async def receive(self) -> Any:
        # A real ring answers when the first step is through; here that is when no more steps follow.
        while True:
            seen = len(self._steps)
            if seen >= self._depth:
                break
            for _ in range(4):
                await asyncio.sleep(0)
            if seen and len(self._steps) == seen:
                break
            if not self._steps:
                self._came.clear()
                await self._came.wait()
        began_s = time.thread_time()
        step = self._steps.popleft()
        self.steps += 1
        drawn = tuple(
            SampledToken(chunk.sequence, chunk.start + chunk.count, 300 + (chunk.start * 7 + chunk.sequence) % 9000)
            for chunk in step.chunks
            if chunk.wanted
        )
        answer = Sampled(step.ring, step.epoch, step.step, step.microbatch, drawn, timings=(StageTiming(STAGE_S),) * 4)
        data = RING.encode(answer)
        self.spent_s += time.thread_time() - began_s
        return SimpleNamespace(message=RING.decode(data))


class Desk:
    """A coordinator with rows without end."""

    def __init__(self) -> None:
        self._draw = random.Random(0)
        self._rows = 0
        self.done = 0
        self.wanted: asyncio.Queue[int] = asyncio.Queue()

    def want_rows(self, rows: int, codecs: tuple[str, ...]) -> None:
        self.wanted.put_nowait(rows)

    def rows_done(self, results: Sequence[RowResult]) -> None:
        if failed := [result for result in results if result.status != 200]:
            raise RuntimeError(failed[0].body.decode())
        self.done += len(results)

    async def serve(self, head: Head) -> None:
        while True:
            rows = await self.wanted.get()
            await head.add(Lease(1, 1, 300.0, tuple(self._row() for _ in range(rows))))

    def _row(self) -> LeasedRow:
        self._rows += 1
        body = {
            "model": "any",
            "prompt": [300 + (self._rows * 31 + place) % 9000 for place in range(PROMPT_TOKENS)],
            "max_tokens": self._draw.randint(1, 2 * NEW_TOKENS),
            "ignore_eos": True,
        }
        return LeasedRow(self._rows, "/v1/completions", json.dumps(body).encode(), self._rows)


def build(directory: Path, microbatches: int, rows: int, ring: Ring, desk: Desk) -> Head:
    stage = StageFigures(StageCost(0.02, 0.0003), StageMemory(16, PAGES), occupies_cores=False)
    figures = RingFigures((stage,) * STAGES, (LinkFigures(0.064),) * STAGES, HIDDEN, 4)
    planner = Planner(
        figures, max_rows=microbatches * rows, step_tokens=4096, overrides=PlanOverrides(microbatches, rows)
    )
    scheduler = Scheduler(
        KvBudget([[PoolShape(0, 0, PAGES)]] * STAGES),
        planner.plan,
        planner.costs,
        plan_for=planner.plan_for,
        max_rows=microbatches * rows,
        max_tokens=4096,
        latency_s=planner.latency_s,
    )
    return Head(
        "benchmark",
        1,
        compute=FreeCompute(),  # type: ignore[arg-type]
        scheduler=scheduler,
        text=TextModel.load(directory),
        desk=desk,
        links=HeadLinks(ring, ring),  # type: ignore[arg-type]
        planner=planner,
    )


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def measure(model: str, microbatches: int, rows: int, steps: int, profile: bool) -> dict[str, float]:
    ring, desk = Ring(microbatches - 1), Desk()
    head = build(resolve(model).directory, microbatches, rows, ring, desk)
    running = [asyncio.create_task(head.run()), asyncio.create_task(desk.serve(head))]
    # The longest of the first rows have ended, and ages are mixed: what rows hold no longer grows.
    await reach(ring, running, 3 * NEW_TOKENS * microbatches)
    before, tokens, done = resident_bytes(), head.completion_tokens, desk.done
    profiler = cProfile.Profile(time.thread_time)
    if profile:
        profiler.enable()
    first, parts = ring.steps, []
    for _ in range(PARTS):
        steps_before, spent_s, began_s = ring.steps, ring.spent_s, time.thread_time()
        await reach(ring, running, steps // PARTS)
        took_s = time.thread_time() - began_s - (ring.spent_s - spent_s)
        parts.append(took_s / (ring.steps - steps_before) * 1e3)
    counted = ring.steps - first
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    grown = resident_bytes() - before
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {
        "microbatches": microbatches,
        "rows": rows,
        "steps": counted,
        "ms_per_step": statistics.fmean(parts),
        "best_ms_per_step": min(parts),
        "tokens_per_step": (head.completion_tokens - tokens) / counted,
        "rows_done_per_step": (desk.done - done) / counted,
        "grown_bytes": grown,
    }


async def reach(ring: Ring, running: Sequence[asyncio.Task[None]], steps: int) -> None:
    """Wait until `steps` more steps are through."""
    target = ring.steps + steps
    while ring.steps < target:
        await asyncio.sleep(0.01)
        for task in running:
            if task.done():
                task.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="Whose tokenizer is used.")
    parser.add_argument("--microbatches", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64, help="Of each microbatch.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="Print where the time goes; figures are then too high.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.model, asked.microbatches, asked.rows, asked.steps, asked.profile))
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{found['microbatches']} microbatches of {found['rows']} rows, {found['steps']} steps in steady state")
    print(f"{found['tokens_per_step']:.1f} tokens and {found['rows_done_per_step']:.2f} finished rows a step")
    print(
        f"{found['ms_per_step']:.2f} ms of the event loop a step, {found['best_ms_per_step']:.2f} at best; "
        f"memory {found['grown_bytes'] / 1e6:+.1f} MB over all steps"
    )


if __name__ == "__main__":
    main()
