"""What the planner decides, what it expects of it, and what a person may decide in its place. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from deserve_plan.codecs import CODECS

__all__ = ["PlanOverrides", "Prediction", "RingPlan", "Unplannable"]


class Unplannable(ValueError):
    """There is no plan for these figures and overrides; the text names which, and why."""


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


@dataclass(frozen=True, slots=True)
class PlanOverrides:
    """Parts of a plan that are set by hand; None leaves one to the planner. A ring that has any of the first four does
    not plan anew. The others are how others run a ring, for comparisons, and leave the plan as it is."""

    microbatches: int | None = None
    rows: int | None = None
    """Per microbatch."""
    swap_pages: int | None = None
    """On every stage."""
    step_budget_ms: float | None = None
    codec: str | None = None
    """Proposed to every job instead of the fastest."""
    chunks_in_flight: int | None = None
    """Of one prompt: 1 waits for a chunk to come back before the next."""
    whole_prompts: int | None = None
    """1: prompts are not cut to the step's budget."""

    @classmethod
    def parse(cls, text: str) -> PlanOverrides:
        """Read "microbatches=20,rows=75,swap_pages=2500,step_budget_ms=150", any of them; "" is none.

        Raises `ValueError` naming the part that cannot be used.
        """
        found: dict[str, float | str] = {}
        for part in filter(None, text.replace(" ", "").split(",")):
            key, _, value = part.partition("=")
            if key not in (field.name for field in fields(cls)):
                names = ", ".join(field.name for field in fields(cls))
                raise ValueError(f"{part!r} is not KEY=VALUE with one of the keys {names}")
            if key in found:
                raise ValueError(f"{key} is set twice")
            found[key] = _codec(value) if key == "codec" else _amount(key, value)
        return cls(**found)  # type: ignore[arg-type]

    @property
    def fixes_plan(self) -> bool:
        """Whether any part of a `RingPlan` is set."""
        return any(getattr(self, name) is not None for name in _PLANNED)

    def applied_to(self, plan: RingPlan) -> RingPlan:
        """`plan` with what is set here. The prediction, which was for the planner's own, is dropped."""
        if not self.fixes_plan:
            return plan
        return replace(
            plan,
            microbatches=_or(self.microbatches, plan.microbatches),
            rows_per_microbatch=_or(self.rows, plan.rows_per_microbatch),
            swap_pages=plan.swap_pages if self.swap_pages is None else (self.swap_pages,) * len(plan.swap_pages),
            step_budget_s=plan.step_budget_s if self.step_budget_ms is None else self.step_budget_ms / 1e3,
            predicted=None,
        )


MOST_BUDGET_MS = 1e9
_RANGES = {
    "microbatches": (1, 4096),
    "rows": (1, 1 << 20),
    "swap_pages": (0, 1 << 40),
    "chunks_in_flight": (1, 1 << 20),
    "whole_prompts": (0, 1),
}
_PLANNED = ("microbatches", "rows", "swap_pages", "step_budget_ms")


def _codec(name: str) -> str:
    if name not in CODECS:
        raise ValueError(f"codec: {name!r} is not one of {', '.join(CODECS)}")
    return name


def _amount(key: str, value: str) -> float:
    """A whole number of at least 1 (pages: 0), or for a time any number above 0."""
    try:
        amount = float(value) if key == "step_budget_ms" else int(value)
    except ValueError:
        raise ValueError(f"{key}: {value!r} is no number") from None
    if key == "step_budget_ms":
        if not 0 < amount < MOST_BUDGET_MS:
            raise ValueError(f"{key}: must be above 0 and below {MOST_BUDGET_MS:g}, not {value}")
        return amount
    least, most = _RANGES[key]
    if not least <= amount <= most:
        raise ValueError(f"{key}: must be from {least} to {most}, not {value}")
    return amount


def _or(own: int | None, planned: int) -> int:
    return planned if own is None else own
