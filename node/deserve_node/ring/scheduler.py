"""Which rows run in which step: continuous batching over the microbatches of one ring. Pure.

A microbatch has at most one step under way. A step takes every decode of its microbatch, and chunks of the oldest
prompts as far as its time budget allows. Prompts belong to no microbatch: the next chunk of a long one enters with the
very next step, before the last one has come back (sequence pipeline parallelism: Mnemosyne, arXiv:2409.17264); stages
take steps in order, so chunks stay in order. When its first token is back a row joins the smallest microbatch.

KV is booked when a step is scheduled; where it runs out the youngest row gives up its pages and is computed again
later. Sampling is keyed by position, so that costs time and changes no token. The scheduler touches no clock, socket
or tensor.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

from deserve_network.ring_messages import SampledToken
from deserve_node.ring.forecast import ExpectedTokens
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.microbatches import Microbatches
from deserve_node.ring.prompt_pace import PromptPace
from deserve_node.ring.prompt_queue import PromptQueue
from deserve_node.ring.step_draft import StepDraft
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.cost import StageCost
from deserve_plan.filling import EMPTY_SHARE, FULL_SHARE
from deserve_plan.plan import RingPlan

__all__ = ["Scheduler"]

AHEAD_TURNS = 2.0
"""Turns between a row's admission and its first token: rows that will have ended by then are replaced beforehand."""
LEAST_BUDGET_S = 1e-6


class Scheduler:
    """Rows wait in order of arrival, run as the plan says, and leave by `finish`.

    `plan_for` answers with the plan for so many rows, some of them with prompts still to come or none, or None while it
    is not known: while fewer are there than `plan` is for, that one holds. `costs` are those of every stage and bounded
    link, and `latency_s` what a step spends on the wire, all hops together. `max_rows` bounds the rows that are planned
    for, and `max_tokens` what prompts fill a step up to: a plan's decodes go first, however many they are.

    `chunks_in_flight` bounds the chunks of one row that are under way at once (0: no bound), and with `whole_prompts`
    prompts are not cut (but at `max_tokens`): so do others, and benchmarks compare.
    """

    def __init__(
        self,
        budget: KvBudget,
        plan: RingPlan,
        costs: Sequence[StageCost],
        *,
        plan_for: Callable[[int, bool], RingPlan | None],
        max_rows: int,
        max_tokens: int,
        latency_s: float = 0.0,
        chunks_in_flight: int = 0,
        whole_prompts: bool = False,
    ) -> None:
        self.budget = budget
        self._plan_for = plan_for
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._waiting: OrderedDict[int, Row] = OrderedDict()
        """By arrival."""
        self._prompts = PromptQueue(chunks_in_flight=chunks_in_flight or max_tokens, whole=whole_prompts)
        self._running: dict[int, Row] = {}
        self._microbatches = Microbatches()
        self._expected = ExpectedTokens()
        self._codecs: Counter[str] = Counter()
        """Of the rows that run."""
        self._released: list[int] = []
        self._failed: list[Row] = []
        self._vacated = 0
        self._steps = 0
        self._sequences = 0
        self._arrivals = 0
        self.preemptions = 0
        self.apply_plan(plan, costs, latency_s)

    def apply_plan(self, plan: RingPlan, costs: Sequence[StageCost], latency_s: float = 0.0) -> None:
        """Follow another plan from the next step on. Rows that no longer fit the memory as it divides it wait again."""
        self._plan = plan
        self.learn(costs, latency_s)
        self._tune: RingPlan | None = None
        self._use(plan)
        while not self.budget.holds(plan):
            self._preempt(self._youngest())

    def learn(self, costs: Sequence[StageCost], latency_s: float) -> None:
        """What steps cost, and spend on the wire, has become known better."""
        self._costs = tuple(set(costs))
        budget_s = max(LEAST_BUDGET_S, self._plan.step_budget_s)
        self._depth = max(self._plan.microbatches, len(costs) + math.ceil(min(latency_s / budget_s, 4096.0)))
        """Steps in flight that keep every stage at work while none of them holds a decode."""

    @property
    def plan(self) -> RingPlan:
        """The plan that holds now: the one applied, or while rows are few the one for them."""
        return self._active

    @property
    def planned_rows(self) -> int:
        """Rows that decode at once under the plan applied."""
        return min(self._max_rows, self._plan.microbatches * self._plan.rows_per_microbatch)

    @property
    def steady(self) -> bool:
        """Whether the ring is full, as planned."""
        return self._share >= FULL_SHARE

    @property
    def decoding(self) -> int:
        return self._microbatches.rows

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> int:
        """Sequence ids given out so far, from 0."""
        return self._sequences

    @property
    def microbatches(self) -> int:
        """Microbatches that hold rows now."""
        return self._microbatches.occupied

    @property
    def rows_per_microbatch(self) -> int:
        return self._microbatches.largest

    def can_ever_run(self, row: Row) -> bool:
        """Whether the ring, empty, could hold the row's tokens so far and one more."""
        return self.budget.can_ever_hold(row.length + 1, self._max_tokens)

    def add(self, row: Row) -> None:
        row.arrival = self._arrivals
        self._arrivals += 1
        self._waiting[row.arrival] = row

    def finish(self, row: Row) -> None:
        """Forget a row that is done, and free its pages with the next step."""
        if row.sequence >= 0:
            self._expected.ended(len(row.generated))
        self.cancel(row)

    def cancel(self, row: Row) -> None:
        """Forget a row wherever it is; others will end later than it would have."""
        if row.sequence >= 0:
            self._vacate(row)
        else:
            self._waiting.pop(row.arrival, None)

    def skip_to_multiple(self, of: int) -> None:
        """The next step has the next number, from its own on, that `of` divides."""
        self._steps += -self._steps % of

    def take_failed(self) -> list[Row]:
        """Rows that outgrew an otherwise empty ring; they are no longer in the scheduler's care."""
        failed, self._failed = self._failed, []
        return failed

    def complete(self, step: int, microbatch: int, drawn: Iterable[SampledToken]) -> list[tuple[Row, SampledToken]]:
        """A step came back with these tokens. Returns the rows that grew, in the same order, each by its token.

        Sequences that were preempted or finished meanwhile are passed over. Raises `ValueError` for a step that is not
        under way, and for a token of a row that no step has drawn one for.
        """
        for prompt, sequence in self._microbatches.returned(microbatch, step).prompts:
            if prompt.sequence == sequence:
                prompt.chunks_under_way -= 1
        grown: list[tuple[Row, SampledToken]] = []
        running = self._running
        for token in drawn:
            row = running.get(token.sequence)
            if row is None:
                continue
            if row.computed < row.length:
                raise ValueError(
                    f"step {step} came back with a token for sequence {token.sequence}, which has none due"
                )
            row.generated.append(token.token)
            grown.append((row, token))
            if row.microbatch < 0:
                self._join(row)
        return grown

    def next_step(self) -> StepPlan | None:
        """The next step of the first idle microbatch, in turn, that has something to compute; or of prompts alone."""
        while True:
            vacated = self._vacated
            self._follow_rows()
            self._admit()
            for row in self._microbatches.unplanned():
                self._move(row)
            for index in self._microbatches.idle():
                if not self._microbatches[index].rows:
                    continue
                for row in self._microbatches.surplus(index):
                    self._move(row)
                if (plan := self._compose(index)) is not None:
                    return plan
            in_flight = self._depth if self._share < EMPTY_SHARE else self._microbatches.count
            if self._prompts.ready and self._microbatches.under_way < in_flight:
                return self._compose(self._microbatches.spare())
            if self._vacated == vacated:
                return None
            # Rows that lost their place made room: those that wait for it must not wait for another event.

    @property
    def _share(self) -> float:
        """Rows that decode, of those planned."""
        return self.decoding / self.planned_rows

    def _follow_rows(self) -> None:
        """Where rows are fewer than planned, microbatches shrink in number as the plan for so many rows has it."""
        rows = self.running + self.waiting
        plan = self._plan
        if 0 < rows < self.planned_rows:
            # In steps of an eighth: each is a plan to be solved.
            grade = 1 << max(0, rows.bit_length() - 4)
            prompts = bool(self._waiting) or self.running > self.decoding
            plan = self._plan_for(min(self.planned_rows, -(-rows // grade) * grade), prompts) or self._active
        if plan is not self._active and self.budget.holds(plan):
            self._use(plan)

    def _use(self, plan: RingPlan) -> None:
        self._active = self._tune = plan
        self._microbatches.resize(max(1, plan.microbatches))
        self.budget.follow(plan)

    def _admit(self) -> None:
        ahead = min(self.planned_rows / 4, self.decoding * AHEAD_TURNS / max(1.0, self._expected.mean))
        most = self.planned_rows + math.ceil(ahead)
        while self._waiting and self.running < most:
            row = next(iter(self._waiting.values()))
            remaining = self._remaining(row)
            unplaced = self.running - self.decoding
            if self._running and not self.budget.fits_row(row.length, self._max_tokens, remaining, unplaced):
                break
            del self._waiting[row.arrival]
            if not self._running and not self.can_ever_run(row):
                self._failed.append(row)
                continue
            row.sequence, self._sequences = self._sequences, self._sequences + 1
            row.computed = row.booked_to = row.chunks_under_way = 0
            self.budget.reserve(row.sequence, row.length, self._max_tokens, remaining)
            self._codecs[row.codec] += 1
            self._running[row.sequence] = row
            self._prompts.add(row)

    def _remaining(self, row: Row) -> int:
        return self._expected.remaining(len(row.generated), row.most_new)

    def _compose(self, index: int) -> StepPlan | None:
        if self._microbatches[index].rows:
            self._book_decodes(index)
        draft = StepDraft(self._microbatches[index].rows)
        if draft.decodes:
            self.budget.advance(draft.decodes / self.decoding)
        pace = self._pace(draft)
        self._prompts.fill(draft, pace, self._max_tokens, lambda row, others: self._may_ride(index, row, others))
        if not draft.tokens:
            return None
        step, self._steps = self._steps, self._steps + 1
        self._microbatches.start(index, step, draft.prompts)
        released, self._released = tuple(self._released), []
        tune, self._tune = self._tune, None
        return draft.finished(
            step,
            index,
            load=pace.load,
            released=released,
            tune=tune,
            codec_of=lambda sequence: self._running[sequence].codec,
            mixed=len(self._codecs) > 1,
        )

    def _may_ride(self, index: int, sequence: int, others: list[int]) -> bool:
        return not self.budget.swaps or self.budget.may_ride(index, sequence, others)

    def _book_decodes(self, index: int) -> None:
        """Book the pages into which rows of the microbatch cross; some leave it where there are too few."""
        rows = self._microbatches[index].rows
        for row in [row for row in rows.values() if row.computed >= row.booked_to]:
            while row.microbatch == index and not self.budget.fits(row.sequence, row.computed):
                self._make_room(row)
            if row.microbatch == index:
                row.booked_to = self.budget.book(row.sequence, row.computed, self._remaining(row))
        while rows and self.budget.overfull(index):
            self._relieve(list(rows.values()))

    def _relieve(self, rows: list[Row]) -> None:
        """One row leaves a microbatch that holds too many pages: the youngest that has room elsewhere, or waits. One
        that is alone in it has outgrown the device."""
        rows.sort(key=lambda row: -row.arrival)
        if len(rows) == 1:
            self._preempt_or_fail(rows[0], alone=True)
        elif not any(self._moved_to_room(row) for row in rows):
            self._preempt(next((row for row in rows if not self.budget.exceeds_share(row.sequence)), rows[0]))

    def _make_room(self, row: Row) -> None:
        youngest = self._youngest()
        self._preempt_or_fail(youngest, alone=youngest is row and self.running == 1)

    def _preempt_or_fail(self, row: Row, *, alone: bool) -> None:
        if alone:
            self._vacate(row)
            self._failed.append(row)
        else:
            self._preempt(row)

    def _pace(self, draft: StepDraft) -> PromptPace:
        budget_s, waiting = self._plan.step_budget_s, self._prompts.tokens
        if not self.steady:
            return PromptPace.filling(self._costs, budget_s, draft.load, waiting, self._depth, self._share)
        if not draft.decodes:
            return PromptPace(self._costs, budget_s, draft.load, waiting)
        return PromptPace.steady(self._costs, budget_s, draft.load, waiting, self._microbatches.count)

    def _join(self, row: Row) -> None:
        has_room = (lambda index: self.budget.has_room(index, row.sequence)) if self.budget.swaps else None
        index = self._microbatches.join(row, has_room)
        if self.budget.swaps:
            self.budget.join(row.sequence, index)

    def _move(self, row: Row) -> None:
        self.budget.leave(row.sequence)
        self._microbatches.leave(row)
        self._join(row)

    def _moved_to_room(self, row: Row) -> bool:
        """Move a row to a microbatch that can hold it; False where there is none."""
        others = (index for index in range(self._microbatches.count) if index != row.microbatch)
        if not any(self.budget.has_room(index, row.sequence) for index in others):
            return False
        self._move(row)
        return True

    def _youngest(self) -> Row:
        return max(self._running.values(), key=lambda row: row.arrival)

    def _preempt(self, row: Row) -> None:
        self._vacate(row)
        self.preemptions += 1
        self._waiting[row.arrival] = row
        self._waiting.move_to_end(row.arrival, last=False)

    def _vacate(self, row: Row) -> None:
        self._vacated += 1
        self.budget.release(row.sequence)
        if row.computed:
            self._released.append(row.sequence)
        del self._running[row.sequence]
        self._prompts.remove(row)
        if row.microbatch >= 0:
            self._microbatches.leave(row)
        self._codecs[row.codec] -= 1
        if not self._codecs[row.codec]:
            del self._codecs[row.codec]
        row.sequence = -1
