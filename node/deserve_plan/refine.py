"""A ring's figures, refined by what its steps took. Pure.

Three things are learnt. *Costs*: every stage reports what it spent on each step. Where stages share cores and all
compute at once, each takes longer than alone, so their times are first divided by how many times over the cores were in
use. *Bandwidth*: a link carries at least what it has carried. *Latency*: each stage tells the round trip to the next,
by heartbeats that go before data.
"""

from __future__ import annotations

import dataclasses

from deserve_plan.figures import LinkFigures, RingFigures
from deserve_plan.fit import CostFitter
from deserve_plan.steady import machines
from deserve_plan.window import Window

__all__ = ["FigureRefiner"]

SAME, SAME_S = 0.05, 0.002
"""A latency that differs by no more than such a part and so many seconds is the same."""


class FigureRefiner:
    """Begins with what was measured when the ring was formed."""

    def __init__(self, figures: RingFigures) -> None:
        self._measured = figures
        self._links = figures.links
        self._carried = 0.0
        """Bytes a second over each link in the window before."""
        self._fitters = [CostFitter(stage.cost) for stage in figures.stages]

    @property
    def figures(self) -> RingFigures:
        """As measured, with the costs, bandwidths and latencies learnt since."""
        stages = tuple(
            dataclasses.replace(stage, cost=fitter.cost)
            for stage, fitter in zip(self._measured.stages, self._fitters, strict=True)
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

    def _crowding(self, window: Window) -> list[float]:
        """Of each stage: how many times over the cores of its machine were in use."""
        stages = self._measured.stages
        busy = [seconds / window.seconds for seconds in window.computed_s()]
        crowding = [1.0] * len(stages)
        for members in machines(stages):
            sharing = [index for index in members if stages[index].occupies_cores]
            used = sum(busy[index] * stages[index].threads for index in sharing) / max(1, stages[members[0]].cores)
            for index in sharing:
                crowding[index] = max(1.0, used)
        return crowding

    def _learn_bandwidth(self, window: Window) -> None:
        carried = sum(step.hidden_bytes for step in window.steps) / window.seconds
        # Steps that piled up somewhere and came back in one burst did not cross the links as fast as that.
        surely = min(carried, self._carried)
        self._links = (*(_at_least(link, surely) for link in self._links[:-1]), *self._links[-1:])
        self._carried = carried

    def _learn_latency(self, window: Window) -> None:
        last = window.steps[-1].rtt_s
        if len(last) == len(self._links):
            self._links = tuple(_as_far_as(link, rtt_s) for link, rtt_s in zip(self._links, last, strict=True))


def _at_least(link: LinkFigures, bytes_per_s: float) -> LinkFigures:
    """A link without a bound stays without."""
    bound = link.bytes_per_s
    return dataclasses.replace(link, bytes_per_s=bytes_per_s) if 0 < bound < bytes_per_s else link


def _as_far_as(link: LinkFigures, rtt_s: float) -> LinkFigures:
    found_s = rtt_s / 2
    if rtt_s <= 0 or abs(found_s - link.latency_s) <= SAME * link.latency_s + SAME_S:
        return link
    return dataclasses.replace(link, latency_s=found_s)
