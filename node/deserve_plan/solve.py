"""The best plan for a ring: exhaustive over what can be chosen, on the formulas of `steady` and `memory`. Pure.

For every number of microbatches, all numbers of rows per microbatch are looked at together. More microbatches never
let a microbatch hold more, so the search ends where even a ring without latency could not beat what was found.

Times vary, and a stage that waits loses what it never gets back. Plans are therefore compared at a *safe* period: hops
take their 95th percentile, links carry less than on average by the spread of their bandwidth, half a microbatch is
spare, and copies must be done ahead of the step that needs them. What
is predicted for the plan afterwards is the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deserve_plan.figures import RingFigures, Workload
from deserve_plan.memory import copies, row_pages, rows_held, swap_for
from deserve_plan.plan import RingPlan, Unplannable
from deserve_plan.predict import predict
from deserve_plan.steady import MeanLoad, RingTimes, full_step_s, period_s, step_costs

__all__ = ["MOST_MICROBATCHES", "STEP_TOKENS", "solve", "step_budget_s"]

Array = NDArray[np.float64]

MOST_MICROBATCHES = 512
STEP_TOKENS = 1 << 16
"""Tokens of a step at most, where the caller knows no bound of its own (activations take memory, too)."""
MOST_SIZES = 512
"""Numbers of rows per microbatch that are looked at, for each number of microbatches."""
TIE = 0.001
"""Plans this close are equal: the one with fewer microbatches, then the one that swaps less, is taken."""
IDLE_TIE = 0.03
"""Plans this close are equal where rows are too few to keep any stage at work for `MOST_IDLE_USE` of the time: more and
smaller microbatches would shorten the trip a little and spend what is idle on the fixed part of steps, until they wait
for one another."""
MOST_IDLE_USE = 0.8
LINK_TIE = 0.01
"""Plans this close are equal where a link bounds them: the one is taken that does most should the links carry as much
as stages need. A measured bandwidth is a lower bound: TCP's window on a long line opens for longer than a measurement
lasts."""
CODEC_TIE = 0.02
"""What a lossy codec must gain, at least, over one that changes less."""
COALESCE_TIE = 0.02
SPARE = 0.5
"""Microbatches, or part of one, that wait at the busiest stage. On the head's scheduler with rows of uneven lengths a
half keeps the stage busy; a whole one cost up to 12 % where few rows are shared out among fixed costs, none 4 %."""
COPY_MARGIN = 0.1
"""Part of a step that a copy must be early, at a prefetch depth of one: steps differ in length."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    plan: RingPlan
    tokens_per_s: float
    """At the safe period."""
    use: float
    """Part of it for which the busiest resource is busy."""
    tokens_per_s_on_faster_links: float

    @property
    def tie(self) -> float:
        if self.use < MOST_IDLE_USE:
            return IDLE_TIE
        return LINK_TIE if self.tokens_per_s_on_faster_links > self.tokens_per_s * (1 + LINK_TIE) else TIE


@dataclass(frozen=True, slots=True)
class _Rates:
    """At the safe period, of so many microbatches with several numbers of rows; arrays are [rows]."""

    tokens_per_s: Array
    use: Array
    """As a candidate's."""
    unhindered: float
    """Tokens/s of the best without latency."""


def solve(
    figures: RingFigures,
    workload: Workload,
    *,
    max_rows: int,
    codecs: Sequence[str] = ("raw",),
    most_microbatches: int = MOST_MICROBATCHES,
    step_tokens: int = STEP_TOKENS,
) -> RingPlan:
    """The plan that generates most tokens a second, with its prediction.

    `codecs` are those that may be used, the one that changes least first; `max_rows` bounds the rows in flight and
    `step_tokens` the tokens of a step. Where memory has no head-room for one mean row, rows run one at a time. Raises
    `Unplannable` for sizes below 1, naming them.
    """
    _check(figures, workload, max_rows, step_tokens)
    best: _Candidate | None = None
    for codec in codecs:
        found = _best_with(figures, workload, codec, max_rows, most_microbatches, step_tokens)
        if best is None or found.tokens_per_s > best.tokens_per_s * (1 + CODEC_TIE):
            best = found
    if best is None:
        raise Unplannable("codecs: none is allowed")
    plan = dataclasses.replace(best.plan, predicted=predict(figures, workload, best.plan, max_rows=max_rows))
    return _with_reason(plan, figures, workload, min(max_rows, workload.rows or max_rows))


def _best_with(
    figures: RingFigures, workload: Workload, codec: str, max_rows: int, most_microbatches: int, step_tokens: int
) -> _Candidate:
    search = _Search(figures, workload, codec, max_rows, most_microbatches, step_tokens)
    best = search.best(coalesce=1, depth=1)
    if any(best.plan.swap_pages):
        # Deeper prefetch evens out steps of different length, and costs one more pool of device memory.
        deeper = search.best(coalesce=1, depth=2)
        best = deeper if deeper.tokens_per_s > best.tokens_per_s * (1 + TIE) else best
    if any(stage.frame.step_s for stage in figures.stages) and len(figures.stages) > 1:
        for coalesce in (2, 4):
            merged = search.best(coalesce=coalesce, depth=best.plan.prefetch_depth)
            best = merged if merged.tokens_per_s > best.tokens_per_s * (1 + COALESCE_TIE) else best
    return best


class _Search:
    def __init__(
        self, figures: RingFigures, workload: Workload, codec: str, max_rows: int, most: int, step_tokens: int
    ) -> None:
        self._figures = figures
        self._workload = workload
        self._codec = codec
        self._rows = min(max_rows, workload.rows or max_rows)
        self._most = min(most, self._rows) if len(figures.stages) > 1 or _may_swap(figures) else 1
        self._step_rows = max(1.0, step_tokens / float(MeanLoad.of(workload, np.ones(1)).tokens[0]))

    def best(self, *, coalesce: int, depth: int) -> _Candidate:
        found: list[_Candidate] = []
        most = most_on_faster = 0.0
        for microbatches in range(1, self._most + 1):
            candidate, unhindered, unhindered_on_faster = self._at(microbatches, coalesce, depth)
            if candidate is not None:
                found.append(candidate)
                most = max(most, candidate.tokens_per_s)
                most_on_faster = max(most_on_faster, candidate.tokens_per_s_on_faster_links)
            if unhindered <= most and unhindered_on_faster <= most_on_faster:
                break
        if not found:
            return self._single_row(coalesce, depth)
        equal = [candidate for candidate in found if candidate.tokens_per_s >= most * (1 - candidate.tie)]
        most = max(candidate.tokens_per_s_on_faster_links for candidate in equal)
        return next(one for one in equal if one.tokens_per_s_on_faster_links >= most * (1 - one.tie))

    def _at(self, microbatches: int, coalesce: int, depth: int) -> tuple[_Candidate | None, float, float]:
        """The best number of rows for so many microbatches, and the tokens/s that it would give without latency: on the
        links as they are, and on faster ones."""
        rows = self._sizes(microbatches, depth)
        swaps = [swap_for(stage.memory, self._workload, rows, microbatches, depth) for stage in self._figures.stages]
        fits = np.logical_and.reduce([swap.fits for swap in swaps])
        if not fits.any():
            most = np.inf if self._may_grow(microbatches, depth) else 0.0
            return None, most, most
        load = MeanLoad.of(self._workload, rows)
        memories = [stage.memory for stage in self._figures.stages]
        moved = copies(memories, self._workload, rows, microbatches, depth, [swap.pages for swap in swaps])
        times = RingTimes(self._figures, load, self._codec, coalesce, copies=moved)
        rates = self._rates(times, microbatches, rows, depth, fits)
        on_faster = rates
        if any(link.bytes_per_s for link in self._figures.links):
            on_faster = self._rates(times.on_faster_links(), microbatches, rows, depth, fits)
        equal = np.flatnonzero(rates.tokens_per_s >= rates.tokens_per_s.max() * (1 - TIE))
        # Of equal sizes the largest, for rows that differ; but none that has to be swapped for nothing.
        unswapped = equal[[not any(swap.pages[at] for swap in swaps) for at in equal]]
        at = int(unswapped[-1] if unswapped.size else equal[0])
        size = int(np.ceil(rows[at] - 1e-9))
        plan = RingPlan(
            microbatches,
            size,
            step_budget_s(self._figures, self._workload, size, self._codec),
            tuple(int(swap.pages[at]) for swap in swaps),
            prefetch_depth=depth,
            coalesce=coalesce,
            codec=self._codec,
        )
        candidate = _Candidate(
            plan, float(rates.tokens_per_s[at]), float(rates.use[at]), float(on_faster.tokens_per_s[at])
        )
        return candidate, rates.unhindered, on_faster.unhindered

    def _rates(self, times: RingTimes, microbatches: int, rows: Array, depth: int, fits: NDArray[np.bool_]) -> _Rates:
        slot = times.slot_s(COPY_MARGIN / depth, spreads=1.0)
        trip = times.trip_s(slot) + times.spread_s + self._spare_s(times, slot)
        carried = np.minimum(rows * microbatches, self._rows)
        period = period_s(microbatches, slot, trip)
        unhindered = float(np.where(fits, carried / (microbatches * slot), 0.0).max())
        return _Rates(np.where(fits, carried / period, 0.0), microbatches * slot / period, unhindered)

    def _sizes(self, microbatches: int, depth: int) -> Array:
        """Numbers of rows per microbatch to look at, ascending; the last is an even share of all rows."""
        share = self._rows / microbatches
        held = min(
            (stage.memory.device_pages / (depth + 1) if microbatches > depth + 1 else 0)
            + stage.memory.device_pages / microbatches
            for stage in self._figures.stages
        )
        pages = max(row_pages(stage.memory, self._workload) for stage in self._figures.stages)
        most = max(1.0, min(share, self._step_rows, 1 + held / pages))
        sizes = np.unique(np.append(np.round(np.linspace(1, most, min(MOST_SIZES, int(most)))), min(share, most)))
        kept: Array = sizes[sizes <= most]
        return kept

    def _spare_s(self, times: RingTimes, slot: Array) -> Array:
        """Microbatches wait at the busiest stage; where stages share the busiest cores, one waits for each core.

        Two microbatches at one stage leave a core idle whose turn it would be, however few of them the cores need.
        """
        stages = self._figures.stages
        if len(stages) == 1:
            return np.zeros_like(slot)
        spare = SPARE * slot
        for members, busy in zip(times.machines, times.core_s, strict=True):
            if len(members) > 1:
                shared = busy > slot * (1 - 1e-9)
                spare = np.where(shared, np.maximum(spare, stages[members[0]].cores * slot), spare)
        return spare

    def _single_row(self, coalesce: int, depth: int) -> _Candidate:
        """Memory that has no head-room for even one mean row: run rows one at a time."""
        none = (0,) * len(self._figures.stages)
        budget_s = step_budget_s(self._figures, self._workload, 1.0, self._codec)
        plan = RingPlan(1, 1, budget_s, none, prefetch_depth=depth, coalesce=coalesce, codec=self._codec)
        load = MeanLoad.of(self._workload, np.array([1.0]))
        times = RingTimes(self._figures, load, self._codec, coalesce)
        slot = times.slot_s()
        period = period_s(1, slot, times.trip_s(slot))
        return _Candidate(plan, float(1 / period[0]), float(slot[0] / period[0]), float(1 / period[0]))

    def _may_grow(self, microbatches: int, depth: int) -> bool:
        """Whether more microbatches could make swapping possible."""
        return microbatches <= depth + 1 and _may_swap(self._figures)


def step_budget_s(figures: RingFigures, workload: Workload, rows: float, codec: str) -> float:
    """What a step of `rows` rows may take on the slowest stage or link: its decodes, and room for bursts of prompts."""
    load = MeanLoad.of(workload, np.array([rows]))
    return max(float(full_step_s(cost, load)[0]) for cost in step_costs(figures, codec))


def _may_swap(figures: RingFigures) -> bool:
    return any(stage.memory.host_pages for stage in figures.stages)


def _with_reason(plan: RingPlan, figures: RingFigures, workload: Workload, rows: int) -> RingPlan:
    """A ring that waits although microbatches were free to choose does so for want of rows, or of memory for them."""
    predicted = plan.predicted
    assert predicted is not None
    if predicted.bound != "latency":
        return plan
    held = [
        rows_held(stage.memory, workload, plan.microbatches, plan.prefetch_depth, pages)
        for stage, pages in zip(figures.stages, plan.swap_pages, strict=True)
    ]
    few = plan.microbatches * (plan.rows_per_microbatch + 1) > rows
    bound = "rows in flight" if few else f"KV memory of stage {held.index(min(held))}"
    return dataclasses.replace(plan, predicted=dataclasses.replace(predicted, bound=bound))


def _check(figures: RingFigures, workload: Workload, max_rows: int, step_tokens: int) -> None:
    for name, value in (
        ("max_rows", max_rows),
        ("step_tokens", step_tokens),
        ("new_tokens", workload.new_tokens),
        ("prompt_tokens", workload.prompt_tokens),
    ):
        if value < 1:
            raise Unplannable(f"{name}: {value} is less than 1")
    for index, stage in enumerate(figures.stages):
        if stage.memory.device_pages < 1:
            raise Unplannable(f"stage {index}: device_pages: {stage.memory.device_pages} is less than 1")
