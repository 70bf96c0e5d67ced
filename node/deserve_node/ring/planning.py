"""The head's planner: the ring's plan, plans for when fewer rows are left, and another where steps show that it is due.

Plans take tens of milliseconds to solve, and seconds where hops are long and steps short, so they are solved on a
worker thread and asked for ahead: `plan_for` answers None until `Planner.solve_next` has found the plan. All methods
belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deserve_network.control_messages import PlanReport
from deserve_network.ring_messages import Segment
from deserve_plan.codecs import CODECS, token_bytes
from deserve_plan.cost import StageCost
from deserve_plan.figures import RingFigures, Workload
from deserve_plan.keeper import PlanKeeper, ReturnedStep
from deserve_plan.plan import PlanOverrides, RingPlan
from deserve_plan.predict import predict
from deserve_plan.steady import step_costs

__all__ = ["Planner"]

ASSUMED_WORKLOAD = Workload(prompt_tokens=256, new_tokens=128)
"""Until rows have told how long they are."""
LEAST_HELD = 4
"""Rows of the assumed length that every stage can hold: a ring that expects to run one at a time would ask for one at a
time, and be long in learning better."""


@dataclass(frozen=True, slots=True)
class _Few:
    rows: int
    more_to_come: bool


class Planner:
    """Holds the plan of one ring. `overrides` are set by hand; where they fix a part of the plan, it holds to the
    end."""

    def __init__(
        self,
        figures: RingFigures,
        *,
        max_rows: int,
        step_tokens: int,
        overrides: PlanOverrides | None = None,
        workload: Workload = ASSUMED_WORKLOAD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Solves the first plan. Raises `ValueError` where a stage has no memory for KV."""
        assumed = _that_fits(workload, figures)
        self._keeper = PlanKeeper(figures, assumed, max_rows=max_rows, step_tokens=step_tokens, overrides=overrides)
        self._by_hand = overrides is not None and overrides.fixes_plan
        self._codec = None if overrides is None else overrides.codec
        self.stages = len(figures.stages)
        self._few_rows: dict[_Few, RingPlan] = {}
        self._wanted: _Few | None = None
        self._clock = clock
        self._most_rows = max_rows
        self._left: tuple[int, float] | None = None
        """Rows that were to be done, and when that was."""
        self._finish_at: float | None = None
        self._finish_due = False
        self._work = asyncio.Event()
        self.proposed_codecs: tuple[str, ...] | None = None
        """Wire codecs with which the ring would be faster than with raw, the fastest first; None: not known yet."""

    @property
    def plan(self) -> RingPlan:
        return self._keeper.plan

    @property
    def costs(self) -> list[StageCost]:
        """Of every stage and link that a step has to fit, for the rows' codec."""
        return step_costs(self._keeper.question.figures, self.plan.codec)

    @property
    def latency_s(self) -> float:
        """Of all hops together."""
        return sum(link.latency_s for link in self._keeper.question.figures.links)

    def hidden_bytes(self, segments: Sequence[Segment]) -> int:
        """Of a step's hidden states, as packed for a link."""
        figures = self._keeper.question.figures
        return sum(part.tokens * token_bytes(part.codec, figures.hidden, figures.value_bytes) for part in segments)

    def plan_for(self, rows: int, more_to_come: bool) -> RingPlan | None:
        """The plan for so many rows, with prompts among what is to come or without; None while it is not known."""
        if self._by_hand:
            return self.plan
        few = _Few(rows, more_to_come)
        found = self._few_rows.get(few)
        if found is None and few != self._wanted:
            # Rows pass quickly: only the latest number still matters.
            self._wanted = few
            self._work.set()
        return found

    def row_started(self, prompt_tokens: int, allowed_tokens: int, codec: str) -> None:
        self._keeper.row_started(prompt_tokens, allowed_tokens, codec)

    def row_ended(self, allowed_tokens: int, new_tokens: int) -> None:
        self._keeper.row_ended(allowed_tokens, new_tokens)

    def row_left(self) -> None:
        """A row left the ring before its end."""
        self._keeper.row_left()

    def rows_left(self, rows: float) -> None:
        """So many rows are to be done by this ring, now and later: when it will be done is found out."""
        self._left = (max(1, round(rows)), self._clock())
        self._finish_due = True
        self._work.set()

    def returned(self, step: ReturnedStep) -> None:
        """A step is back."""
        self._keeper.returned(step)
        if self._keeper.due() is not None:
            self._work.set()

    async def propose_codecs(self) -> None:
        """Find out which codecs are worth what they change."""
        if self._codec is not None:
            self.proposed_codecs = (self._codec,)
            return
        left, found = list(CODECS), []
        while True:
            question = dataclasses.replace(self._keeper.question, codecs=tuple(left))
            if (best := (await asyncio.to_thread(question.solve)).codec) == "raw":
                break
            found.append(best)
            left.remove(best)
        self.proposed_codecs = tuple(found)

    async def solve_next(self) -> bool:
        """Wait until a plan is wanted, and find it. Returns whether it is another one for the whole ring."""
        await self._work.wait()
        self._work.clear()
        if (due := self._keeper.due()) is not None:
            plan = await asyncio.to_thread(due.renew, self.plan)
            another = self._keeper.adopt(due, plan)
            self._few_rows.clear()
            self._wanted = None
            if another:
                self._finish_due = self._left is not None
                self._work.set()
                return True
        if self._wanted is not None and (few := self._wanted) not in self._few_rows:
            asked = self._keeper.question
            workload = dataclasses.replace(asked.workload, more_to_come=few.more_to_come)
            question = dataclasses.replace(asked, workload=workload, max_rows=few.rows)
            self._few_rows[few] = await asyncio.to_thread(question.solve)
            if few != self._wanted:
                self._work.set()
        if self._finish_due and self._left is not None:
            self._finish_due = False
            left, since = self._left
            workload = dataclasses.replace(self._keeper.workload, rows=left)
            prediction = functools.partial(predict, self._keeper.figures, workload, self.plan, max_rows=self._most_rows)
            found = await asyncio.to_thread(prediction)
            self._finish_at = since + found.finish_s
        return False

    def report(self) -> PlanReport:
        """The plan that holds, what is expected of it, and what was measured while the ring was as planned."""
        found = self._keeper.report()
        values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        left_s = 0.0 if self._finish_at is None else max(0.0, self._finish_at - self._clock())
        return PlanReport(**values, predicted_finish_s=left_s)


def _that_fits(workload: Workload, figures: RingFigures) -> Workload:
    """`workload`, with shorter rows where a stage could not hold several of them."""
    tokens = min(stage.memory.page_tokens * stage.memory.device_pages for stage in figures.stages)
    part = min(1.0, tokens / LEAST_HELD / (workload.prompt_tokens + workload.new_tokens))
    return dataclasses.replace(
        workload,
        prompt_tokens=max(1.0, workload.prompt_tokens * part),
        new_tokens=max(1.0, workload.new_tokens * part),
    )
