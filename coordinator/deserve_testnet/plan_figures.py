"""A ring's plan beside what came of it: what was predicted, what was measured in the steady state, and their ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PlanFigures"]


@dataclass(frozen=True)
class PlanFigures:
    """As the ring's head reported them; see `deserve_network.control_messages.PlanReport`.

    What was measured is of the last windows in a row in which the ring ran as planned, without filling and draining; 0
    and empty where there were none.
    """

    ring: str
    microbatches: int
    rows_per_microbatch: int
    step_budget_s: float
    swap_pages: tuple[int, ...]
    """Of each stage."""
    prefetch_depth: int
    coalesce: int
    codec: str
    bound: str
    """What limits the ring."""
    plans: int
    """Made since the ring began."""
    predicted_tokens_per_s: float
    measured_tokens_per_s: float
    steady_s: float
    """How long those were together."""
    all_steps_s: float
    """What all steps took, filling and draining included."""
    all_steps_predicted_s: float
    """What the plans of their time give for those very steps."""
    predicted_utilisation: tuple[float, ...]
    measured_utilisation: tuple[float, ...]
    predicted_finish_s: float
    """From then on until the last row, as told soon after the first token; 0: not known."""
    finish_s: float = 0.0
    """From the same moment until the last token came."""

    @classmethod
    def of(cls, ring: Mapping[str, Any]) -> PlanFigures | None:
        """Of a ring of `GET /v1/network`; None before it has planned."""
        plan = ring.get("plan")
        if plan is None:
            return None
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plan.items()
        }
        return cls(ring=ring["ring"], **values)

    @property
    def ratio(self) -> float | None:
        """Measured over predicted, in the steady state."""
        if not (self.steady_s and self.predicted_tokens_per_s):
            return None
        return self.measured_tokens_per_s / self.predicted_tokens_per_s

    def lines(self) -> list[str]:
        """The same for a reader."""
        swap = f", {max(self.swap_pages)} pages swapped" if any(self.swap_pages) else ""
        times = "once" if self.plans == 1 else f"{self.plans} times"
        measured = "nothing, for want of steps"
        if self.all_steps_s:
            measured = (
                f"no steady state; all steps took {self.all_steps_s:.1f} s, "
                f"{self.all_steps_predicted_s:.1f} s were predicted for them"
            )
        if self.ratio is not None:
            measured = (
                f"{self.measured_tokens_per_s:.1f} tokens/s over {self.steady_s:.1f} s of steady state, "
                f"{self.ratio:.1%} of what was predicted"
            )
        lines = [
            f"plan      {self.microbatches} microbatches of {self.rows_per_microbatch} rows, "
            f"steps of {self.step_budget_s * 1e3:.0f} ms at most{swap}, {self.codec}; made {times}",
            f"predicted {self.predicted_tokens_per_s:.1f} tokens/s, bound by {self.bound}",
            f"measured  {measured}",
        ]
        if self.predicted_finish_s and self.finish_s:
            lines.append(f"finish    after {self.finish_s:.1f} s, {self.predicted_finish_s:.1f} s were predicted")
        return lines

    def stage_line(self, stage: int) -> str:
        """How busy a stage was to be, and was, in the steady state; empty where nothing was measured."""
        if stage >= min(len(self.predicted_utilisation), len(self.measured_utilisation)):
            return ""
        return f"(steady {self.measured_utilisation[stage]:.0%}, predicted {self.predicted_utilisation[stage]:.0%})"
