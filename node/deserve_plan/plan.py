"""What the planner decides, and what it expects of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Prediction", "RingPlan"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Steady state of a ring under a plan. `bound` names what limits it, in words for an operator."""

    tokens_per_s: float
    """Generated tokens."""
    period_s: float
    """Between two tokens of one row."""
    step_s: tuple[float, ...]
    """Of each stage, for the mean step."""
    utilisation: tuple[float, ...]
    """Share of time in which each stage computes."""
    bound: str
    finish_s: float = 0.0
    """Until the last of the workload's rows is done; 0 where there is no end of them."""


@dataclass(frozen=True, slots=True)
class RingPlan:
    """How a ring runs.

    `step_budget_s` is what a step may take on its slowest stage; `swap_pages[i]` how many pages of a microbatch leave
    the device of stage i while others compute (0: nothing is swapped there); `prefetch_depth` how many steps ahead a
    stage brings pages in; `coalesce` how many steps' frames may leave as one.
    """

    microbatches: int
    rows_per_microbatch: int
    step_budget_s: float
    swap_pages: tuple[int, ...]
    prefetch_depth: int = 1
    coalesce: int = 1
    codec: str = "raw"
    predicted: Prediction | None = None
