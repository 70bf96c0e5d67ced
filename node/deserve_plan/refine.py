"""A ring's figures, refined by what its steps took. Pure.

Four things are learnt. *Costs*: every stage reports what it spent on each step. Where stages share cores and all
compute at once, each takes longer than alone, so their times are first divided by how many times over the cores were in
use. *Bandwidth*: a link carries at least what it has carried; and the slowest no more than that where a ring is slower
than everything else that was learnt explains. *Latency*: each stage tells the round trip to the next, by heartbeats
that go before data. *Copies*: a stage that waits for its pages for longer than their copy should take copies slower.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from deserve_plan.figures import LinkFigures, RingFigures, StageMemory, Workload
from deserve_plan.fit import CostFitter
from deserve_plan.memory import planned_copies
from deserve_plan.plan import RingPlan
from deserve_plan.steady import machines
from deserve_plan.window import Window, mean_rows

__all__ = ["FigureRefiner"]

SAME, SAME_S = 0.05, 0.002
"""A latency that differs by no more than such a part and so many seconds is the same."""

CORES_LEFT = 0.67
"""Use of a machine's cores by computing, above which they may well be what a ring waits for."""


class FigureRefiner:
    """Begins with what was measured when the ring was formed."""

    def __init__(self, figures: RingFigures) -> None:
        self._measured = figures
        self._links = figures.links
        self._carried = 0.0
        """Bytes a second over each link in the window before."""
        self._memories = [stage.memory for stage in figures.stages]
        self._fitters = [CostFitter(stage.cost) for stage in figures.stages]

    @property
    def figures(self) -> RingFigures:
        """As measured, with the costs, copy rates, bandwidths and latencies learnt since."""
        stages = tuple(
            dataclasses.replace(stage, cost=fitter.cost, memory=memory)
            for stage, fitter, memory in zip(self._measured.stages, self._fitters, self._memories, strict=True)
        )
        return dataclasses.replace(self._measured, stages=stages, links=self._links)

    def learn(self, window: Window) -> None:
        """Take over what the steps of a window took."""
        if window.seconds <= 0:
            return
        loads = [step.load for step in window.steps]
        for stage, (fitter, times) in enumerate(zip(self._fitters, self._crowding(window), strict=True)):
            fitter.observe(loads, [step.compute_s[stage] / times for step in window.steps])
        self._learn_bandwidth(window)
        self._learn_latency(window)

    def learn_copies(self, workload: Workload, plan: RingPlan, window: Window) -> None:
        """Take over how long stages waited for pages under `plan`."""
        if not any(plan.swap_pages) or not all(step.waited_s for step in window.steps):
            return
        _, rows = mean_rows(window)
        planned = planned_copies(self.figures, workload, plan, np.array([rows])).seconds[:, 0]
        waited = np.mean([step.waited_s for step in window.steps], axis=0)
        for stage, (copy_s, wait_s) in enumerate(zip(planned, waited, strict=True)):
            if 0 < copy_s * (1 + SAME) + SAME_S < wait_s:
                self._memories[stage] = _slower(self._memories[stage], float(copy_s / wait_s))

    def learn_shortage(self, window: Window) -> None:
        """The ring was slower than all figures explain: its slowest link carries no more than it did, unless cores were
        short, which other programs may use, too."""
        bounded = [link.bytes_per_s for link in self._links[:-1] if link.bytes_per_s]
        carried = _carried(window)
        if bounded and carried < min(bounded) and max(self._core_use(window)) < CORES_LEFT:
            self._links = tuple(
                dataclasses.replace(link, bytes_per_s=carried) if link.bytes_per_s == min(bounded) else link
                for link in self._links
            )

    def _crowding(self, window: Window) -> list[float]:
        """Of each stage: how many times over the cores of its machine were in use."""
        return [max(1.0, use) for use in self._core_use(window)]

    def _core_use(self, window: Window) -> list[float]:
        """Of each stage: how much of its machine's cores all of them computed on; 0 where a device computes."""
        stages = self._measured.stages
        busy = [seconds / window.seconds for seconds in window.computed_s()]
        found = [0.0] * len(stages)
        for members in machines(stages):
            sharing = [index for index in members if stages[index].occupies_cores]
            used = sum(busy[index] * stages[index].threads for index in sharing) / max(1, stages[members[0]].cores)
            for index in sharing:
                found[index] = used
        return found

    def _learn_bandwidth(self, window: Window) -> None:
        carried = _carried(window)
        # Steps that piled up somewhere and came back in one burst did not cross the links as fast as that.
        surely = min(carried, self._carried)
        self._links = (*(_at_least(link, surely) for link in self._links[:-1]), *self._links[-1:])
        self._carried = carried

    def _learn_latency(self, window: Window) -> None:
        last = window.steps[-1].rtt_s
        if len(last) == len(self._links):
            self._links = tuple(_as_far_as(link, rtt_s) for link, rtt_s in zip(self._links, last, strict=True))


def _carried(window: Window) -> float:
    """Bytes a second over each link but the last."""
    return sum(step.hidden_bytes for step in window.steps) / window.seconds


def _slower(memory: StageMemory, part: float) -> StageMemory:
    return dataclasses.replace(
        memory,
        copy_in_bytes_per_s=memory.copy_in_bytes_per_s * part,
        copy_out_bytes_per_s=memory.copy_out_bytes_per_s * part,
    )


def _at_least(link: LinkFigures, bytes_per_s: float) -> LinkFigures:
    """A link without a bound stays without."""
    bound = link.bytes_per_s
    return dataclasses.replace(link, bytes_per_s=bytes_per_s) if 0 < bound < bytes_per_s else link


def _as_far_as(link: LinkFigures, rtt_s: float) -> LinkFigures:
    found_s = rtt_s / 2
    if rtt_s <= 0 or abs(found_s - link.latency_s) <= SAME * link.latency_s + SAME_S:
        return link
    return dataclasses.replace(link, latency_s=found_s)
