"""The head's own scheduler over a ring of simulated stages and links: what a plan does to real rows, without waiting.

A stage computes one step at a time, for as long as its cost says; a line sends one frame at a time and then delays it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from deserve_network.ring_messages import SampledToken
from deserve_node.engine.pages import PoolShape
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.codecs import token_bytes
from deserve_plan.cost import StepLoad
from deserve_plan.figures import RingFigures
from deserve_plan.plan import RingPlan


@dataclass(frozen=True)
class Outcome:
    finish_s: float
    tokens_per_s: float
    """From the first row that ended until the last one started: neither filling nor draining."""
    preemptions: int


def run_batch(
    figures: RingFigures, plan: RingPlan, rows: Sequence[tuple[int, int]], *, max_rows: int, max_tokens: int = 1 << 16
) -> Outcome:
    """Rows are (prompt tokens, new tokens)."""
    memory = [stage.memory for stage in figures.stages]
    scheduler = Scheduler(
        KvBudget([[PoolShape(0, 0, m.device_pages, m.host_pages, m.page_tokens)] for m in memory]),
        plan,
        [stage.cost for stage in figures.stages],
        plan_for=lambda *_: plan,
        max_rows=max_rows,
        max_tokens=max_tokens,
        latency_s=sum(link.latency_s for link in figures.links),
    )
    targets = {}
    for key, (prompt, new) in enumerate(rows):
        scheduler.add(Row(key, tuple(range(prompt)), most_new=new))
        targets[key] = new
    return _Clockwork(figures, plan, scheduler, targets).run()


class _Clockwork:
    def __init__(self, figures: RingFigures, plan: RingPlan, scheduler: Scheduler, targets: dict[int, int]) -> None:
        self._figures = figures
        self._scheduler = scheduler
        self._targets = targets
        self._bytes = token_bytes(plan.codec, figures.hidden, figures.value_bytes)
        self._stage_free = [0.0] * len(figures.stages)
        self._line_free = [0.0] * len(figures.stages)
        self._now = 0.0
        self._back: list[tuple[float, int, StepPlan]] = []

    def run(self) -> Outcome:
        left = len(self._targets)
        made = 0
        first_end: tuple[float, int] | None = None
        last_start = (0.0, 0)
        while left:
            # One step computes at the head and one is composed ahead.
            step = None
            if not self._back or self._back[0][0] > max(self._now, self._stage_free[0]):
                waiting = self._scheduler.waiting
                step = self._scheduler.next_step()
                if step is not None:
                    self._send(step)
                    if waiting and not self._scheduler.waiting:
                        last_start = (self._now, made)
                    continue
            self._now, _, step = heapq.heappop(self._back)
            drawn = [SampledToken(c.sequence, c.start + c.count, 7) for c in step.chunks if c.wanted]
            for row, _ in self._scheduler.complete(step.step, step.microbatch, drawn):
                made += 1
                if len(row.generated) == self._targets[row.key]:
                    self._scheduler.finish(row)
                    left -= 1
                    first_end = first_end or (self._now, made)
        assert first_end is not None
        steady_s = last_start[0] - first_end[0]
        rate = (last_start[1] - first_end[1]) / steady_s if steady_s > 0 else made / self._now
        return Outcome(self._now, rate, self._scheduler.preemptions)

    def _send(self, step: StepPlan) -> None:
        load = sum((StepLoad.of_chunk(c.start, c.count, c.wanted) for c in step.chunks), StepLoad())
        at = max(self._now, self._stage_free[0])
        last = len(self._figures.stages) - 1
        for index, stage in enumerate(self._figures.stages):
            at = self._stage_free[index] = max(at, self._stage_free[index]) + stage.cost.step_s(load)
            if last:
                link = self._figures.links[index]
                payload = load.tokens * self._bytes if index < last else 0
                sending = (200 + 16 * len(step.chunks) + payload) / link.bytes_per_s if link.bytes_per_s else 0.0
                at = self._line_free[index] = max(at, self._line_free[index]) + sending
                at += link.latency_s
        heapq.heappush(self._back, (at, step.step, step))
