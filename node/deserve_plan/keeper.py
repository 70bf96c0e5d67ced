"""Keeps a ring's plan true: compares what steps took with what was planned, and plans anew when the two part. Pure.

The head tells it of every step that came back and every row that started or ended, and asks whether a new plan is due.
Steps are gathered into windows of two round trips at least. Of each window the keeper knows how long a ring with the
planned figures would have taken for just those steps; two windows in a row that are off by more than a tenth, or rows
that are no longer what was planned for, make a new plan due. Filling and draining change the mix of steps, which is
compared like with like, and so are no drift. A plan that holds is left for another only where that gains something.

    question = keeper.due()                  # None, or what is to be solved
    plan = question.renew(keeper.plan)       # tens of milliseconds, or seconds: on any thread
    if keeper.adopt(question, plan): ...     # to take effect at the next step
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from deserve_plan.figures import RingFigures, Workload
from deserve_plan.plan import PlanOverrides, Prediction, RingPlan, Unplannable
from deserve_plan.predict import predict, rows_in_flight
from deserve_plan.refine import FigureRefiner
from deserve_plan.rows import RowStatistics
from deserve_plan.solve import STEP_TOKENS, solve, step_budget_s
from deserve_plan.window import ReturnedStep, Window, expected_s

__all__ = ["PlanKeeper", "PlanQuestion", "Report", "ReturnedStep"]

DRIFT = 0.10
WINDOWS = 2
"""Windows in a row that must show drift."""
LEAST_STEPS = 20
ROUND_TRIPS = 2
STEADY_ROWS = 0.9
STEADY_MIX = 0.25
"""A window is in the planned steady state with so many of the planned rows, and prompts in their proportion so far."""
MOST_PATIENCE = 32
"""Where new plans do not cure the drift, windows grow, up to so many times as long."""
GAIN = 0.02
"""Part of its tokens/s that another plan must gain."""
BUDGET_MOVED = 0.1
"""Part by which the step budget is off before it is set anew."""


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """Everything a plan follows from."""

    figures: RingFigures
    workload: Workload
    max_rows: int
    codecs: tuple[str, ...]
    step_tokens: int
    overrides: PlanOverrides

    def solve(self) -> RingPlan:
        """The best plan, but for what is set by hand. Raises `Unplannable` where a stage has no memory for KV, and for
        more rows than a step takes tokens."""
        figures, workload = self.figures, self.workload
        plan = solve(figures, workload, max_rows=self.max_rows, codecs=self.codecs, step_tokens=self.step_tokens)
        if not self.overrides.fixes_plan:
            return plan
        plan = self.overrides.applied_to(plan)
        if plan.rows_per_microbatch > self.step_tokens:
            raise Unplannable(f"rows: a step takes {self.step_tokens} tokens here, not {plan.rows_per_microbatch}")
        if self.overrides.step_budget_ms is None:
            # The planner's budget was for its own number of rows.
            rows, _ = rows_in_flight(figures, workload, dataclasses.replace(plan, step_budget_s=0.0), self.max_rows)
            budget_s = step_budget_s(figures, workload, rows / plan.microbatches, plan.codec)
            plan = dataclasses.replace(plan, step_budget_s=budget_s)
        return dataclasses.replace(plan, predicted=self.predict(plan))

    def predict(self, plan: RingPlan) -> Prediction:
        """What the ring does under `plan`."""
        return predict(self.figures, self.workload, plan, max_rows=self.max_rows)

    def renew(self, held: RingPlan) -> RingPlan:
        """`held`, with what is to be expected of it now, or the best plan where that gains enough to be worth it."""
        best = self.solve()
        codec = held.codec if held.codec in self.codecs else best.codec
        budget_s = step_budget_s(self.figures, self.workload, held.rows_per_microbatch, codec)
        if abs(budget_s - held.step_budget_s) <= BUDGET_MOVED * held.step_budget_s:
            budget_s = held.step_budget_s
        kept = dataclasses.replace(held, codec=codec, step_budget_s=budget_s)
        kept = dataclasses.replace(kept, predicted=self.predict(kept))
        assert best.predicted is not None
        assert kept.predicted is not None
        return best if best.predicted.tokens_per_s > kept.predicted.tokens_per_s * (1 + GAIN) else kept


@dataclass(frozen=True, slots=True)
class Report:
    """What a head reports of its plan; the fields are those of `control_messages.PlanReport`, but for the time to
    finish: the head knows how many rows are left."""

    microbatches: int
    rows_per_microbatch: int
    step_budget_s: float
    swap_pages: tuple[int, ...]
    prefetch_depth: int
    coalesce: int
    codec: str
    bound: str
    predicted_tokens_per_s: float
    predicted_utilisation: tuple[float, ...]
    measured_tokens_per_s: float
    measured_utilisation: tuple[float, ...]
    steady_s: float
    all_steps_s: float
    all_steps_predicted_s: float
    plans: int


@dataclass(slots=True)
class _Steady:
    """Windows in a row that were in the planned steady state, together."""

    seconds: float = 0.0
    drawn: int = 0
    computed_s: tuple[float, ...] = ()

    def add(self, window: Window) -> None:
        computed = window.computed_s()
        self.seconds += window.seconds
        self.drawn += window.drawn
        self.computed_s = tuple(a + b for a, b in zip(self.computed_s or [0.0] * len(computed), computed, strict=True))


class PlanKeeper:
    """Plans at once for `workload`, which is assumed until rows tell more. Raises what `PlanQuestion.solve` does.

    `max_rows`: rows in flight at most; `step_tokens`: tokens of a step at most; `overrides`: what is set by hand, after
    which nothing is planned anew.
    """

    def __init__(
        self,
        figures: RingFigures,
        workload: Workload,
        *,
        max_rows: int,
        step_tokens: int = STEP_TOKENS,
        overrides: PlanOverrides | None = None,
    ) -> None:
        self._rows = RowStatistics(workload)
        self._refiner = FigureRefiner(figures)
        self._asked = PlanQuestion(figures, workload, max_rows, ("raw",), step_tokens, overrides or PlanOverrides())
        self.plan = self._asked.solve()
        self.plans = 1
        self._window: Window | None = None
        self._strikes = 0
        self._patience = 1
        self._steady = _Steady()
        self._all_steps_s = self._all_steps_predicted_s = 0.0

    @property
    def figures(self) -> RingFigures:
        """As refined by what steps took."""
        return self._refiner.figures

    @property
    def workload(self) -> Workload:
        return self._rows.workload()

    @property
    def question(self) -> PlanQuestion:
        """What the plan that holds is the answer to."""
        return self._asked

    def row_started(self, prompt_tokens: int, allowed_tokens: int, codec: str = "raw") -> None:
        """The head took a row on: tokens of its prompt, how many it may generate at most, and its job's codec."""
        self._rows.start(prompt_tokens, allowed_tokens, codec)

    def row_ended(self, allowed_tokens: int, new_tokens: int) -> None:
        """A row that might have generated `allowed_tokens` ended after `new_tokens`."""
        self._rows.end(allowed_tokens, new_tokens)

    def row_left(self) -> None:
        """A row left before its end, and says nothing of how long rows are."""
        self._rows.leave()

    def returned(self, step: ReturnedStep) -> None:
        """A step's tokens are back. To be called in the order in which steps come back."""
        if self._window is None or step.running == 0:
            self._window = Window(step.now_s)
            return
        self._window.steps.append(step)
        if len(self._window.steps) >= self._patience * max(LEAST_STEPS, ROUND_TRIPS * self.plan.microbatches):
            self._close(self._window)
            self._window = Window(step.now_s)

    def _close(self, window: Window) -> None:
        expected = expected_s(self._asked.figures, self._asked.workload, self.plan, window)
        self._refiner.learn(window)
        self._refiner.learn_copies(self._asked.workload, self.plan, window)
        self._all_steps_s += window.seconds
        self._all_steps_predicted_s += expected
        off = expected > 0 and abs(window.seconds / expected - 1) > DRIFT
        self._strikes = self._strikes + 1 if off else 0
        if not off:
            self._patience = 1
        elif self._strikes >= WINDOWS:
            explained = expected_s(self.figures, self._asked.workload, self.plan, window)
            if window.seconds > explained * (1 + DRIFT):
                self._refiner.learn_shortage(window)
        if not self._is_steady(window):
            self._steady = _Steady()
        else:
            self._steady.add(window)

    def _is_steady(self, window: Window) -> bool:
        predicted, workload = self._predicted(), self.workload
        planned_rows = predicted.tokens_per_s * predicted.period_s
        mix = workload.prompt_tokens / workload.new_tokens
        return (
            window.least_running >= STEADY_ROWS * planned_rows
            and abs(window.prompt - mix * window.drawn) <= STEADY_MIX * (1 + mix) * window.drawn
        )

    def due(self) -> PlanQuestion | None:
        """What is to be solved now, if the plan no longer fits."""
        asked, codec = self._asked, self._rows.codec
        moved = self._rows.moved(asked.workload) or codec not in asked.codecs
        if asked.overrides.fixes_plan or not (moved or self._strikes >= WINDOWS):
            return None
        return dataclasses.replace(asked, figures=self.figures, workload=self.workload, codecs=(codec,))

    def adopt(self, question: PlanQuestion, plan: RingPlan) -> bool:
        """From the next step on `plan` holds, the answer to `question`; False where it is what holds already."""
        same = dataclasses.replace(plan, predicted=self.plan.predicted) == self.plan
        same_shape = _shape(plan) == _shape(self.plan)
        if self._strikes >= WINDOWS:
            self._patience = min(MOST_PATIENCE, 2 * self._patience)
        self._asked = question
        self._strikes = 0
        self.plan = plan
        if same:
            return False
        self.plans += 1
        self._window = None
        if not same_shape:
            self._steady = _Steady()
        return True

    def _predicted(self) -> Prediction:
        """Of the plan that holds, by the figures that it was solved from, for the rows as they are by now."""
        return dataclasses.replace(self._asked, workload=self.workload).predict(self.plan)

    def report(self) -> Report:
        """The plan, what is expected of it for rows as they are by now, and what was measured since it holds."""
        plan, predicted, steady = self.plan, self._predicted(), self._steady
        return Report(
            plan.microbatches,
            plan.rows_per_microbatch,
            plan.step_budget_s,
            plan.swap_pages,
            plan.prefetch_depth,
            plan.coalesce,
            plan.codec,
            predicted.bound,
            predicted.tokens_per_s,
            predicted.utilisation,
            steady.drawn / steady.seconds if steady.seconds else 0.0,
            tuple(computed / steady.seconds for computed in steady.computed_s) if steady.seconds else (),
            steady.seconds,
            self._all_steps_s,
            self._all_steps_predicted_s,
            self.plans,
        )


def _shape(plan: RingPlan) -> RingPlan:
    return dataclasses.replace(plan, step_budget_s=0.0, predicted=None)
