"""The steps of a stretch of time, and how long a ring with given figures would have taken for just those. Pure.

Only sums are compared: single steps overlap, so their times say nothing of the ring's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deserve_plan.cost import StepLoad
from deserve_plan.figures import RingFigures, Workload
from deserve_plan.memory import planned_copies
from deserve_plan.plan import RingPlan
from deserve_plan.steady import MeanLoad, RingTimes, period_s

__all__ = ["ReturnedStep", "Window", "expected_s", "mean_rows"]


@dataclass(frozen=True, slots=True)
class ReturnedStep:
    """What the head knows of a step when its tokens are back."""

    now_s: float
    """On a clock that does not go back."""
    load: StepLoad
    prompt: int
    """Prompt tokens among `load.tokens`."""
    drawn: int
    """Tokens generated."""
    hidden_bytes: int
    """Of its hidden states, as packed for a link."""
    compute_s: Sequence[float]
    """Of every stage."""
    running: int
    """Rows in the ring."""
    microbatches: int
    """Microbatches that hold rows."""
    rtt_s: Sequence[float] = ()
    """Over the onward link of every stage, as last seen; 0: not known."""
    waited_s: Sequence[float] = ()
    """Of every stage: for pages to come from host memory; empty: not known."""


@dataclass(slots=True)
class Window:
    """Steps that came back after `began_s`, when the step before the first of them did."""

    began_s: float
    steps: list[ReturnedStep] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.steps[-1].now_s - self.began_s if self.steps else 0.0

    @property
    def drawn(self) -> int:
        return sum(step.drawn for step in self.steps)

    @property
    def prompt(self) -> int:
        return sum(step.prompt for step in self.steps)

    @property
    def least_running(self) -> int:
        return min(step.running for step in self.steps)

    def computed_s(self) -> list[float]:
        """Of every stage, all steps together."""
        return [sum(times) for times in zip(*(step.compute_s for step in self.steps), strict=True)]


def mean_rows(window: Window) -> tuple[float, float]:
    """Microbatches that hold rows, and rows in each of them."""
    count = len(window.steps)
    microbatches = max(1.0, sum(step.microbatches for step in window.steps) / count)
    return microbatches, sum(step.running for step in window.steps) / count / microbatches


def expected_s(figures: RingFigures, workload: Workload, plan: RingPlan, window: Window) -> float:
    """Seconds that a ring with these figures takes for the steps of `window`."""
    steps, count = window.steps, len(window.steps)
    total = sum((step.load for step in steps), StepLoad())
    prompt = window.prompt / count
    load = MeanLoad(
        rows=np.array([total.wanted / count]),
        decodes=np.array([total.tokens / count - prompt]),
        prompt=np.array([prompt]),
        context=np.array([total.context / count]),
        pairs=np.array([total.pairs / count]),
    )
    microbatches, rows = mean_rows(window)
    means = [sum(stage.cost.step_s(step.load) for step in steps) / count for stage in figures.stages]
    hidden = np.array([sum(step.hidden_bytes for step in steps) / count])
    times = RingTimes(
        figures,
        load,
        plan.codec,
        plan.coalesce,
        copies=planned_copies(figures, workload, plan, np.array([rows])),
        step_s=np.array(means).reshape(-1, 1),
        hidden_bytes=hidden,
    )
    slot = times.slot_s()
    return count / microbatches * float(period_s(microbatches, slot, times.trip_s(slot))[0])
