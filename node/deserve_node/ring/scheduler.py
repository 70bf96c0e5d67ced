"""Which rows run in which step: continuous batching over the microbatches of one ring. Pure.

A microbatch has at most one step under way. A step takes every decode of its microbatch and fills what is left of the
token budget with prompt chunks, oldest row first. KV is booked when a step is scheduled; where it runs out the
youngest row gives up its pages and is computed again later. Sampling is keyed by position, so that costs time and
changes no token. The scheduler touches no clock, socket or tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from deserve_network.ring_messages import Chunk
from deserve_node.ring.kv_budget import KvBudget

__all__ = ["Row", "Scheduler", "StepPlan"]


@dataclass(slots=True, eq=False)
class Row:
    """A row in the ring's care. `key` is the caller's; the rest below `generated` is the scheduler's."""

    key: int
    prompt: tuple[int, ...]
    score_prompt: bool = False
    generated: list[int] = field(default_factory=list)
    arrival: int = -1
    sequence: int = -1
    computed: int = 0
    microbatch: int = -1

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.generated)

    def token_ids(self, start: int, count: int) -> list[int]:
        """Ids at positions [start, start + count)."""
        prompt = list(self.prompt[start : start + count])
        first = max(0, start - len(self.prompt))
        return prompt + self.generated[first : first + count - len(prompt)]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step to run: `token_ids` are the packed inputs of stage 0, `admitted` the rows new to the tail."""

    step: int
    microbatch: int
    released: tuple[int, ...]
    admitted: tuple[Row, ...]
    chunks: tuple[Chunk, ...]
    token_ids: list[int]


@dataclass(slots=True)
class _Microbatch:
    rows: dict[int, Row] = field(default_factory=dict)
    step: int | None = None


class Scheduler:
    """Rows wait in order of arrival, run in `microbatches(rows)` microbatches, and leave by `finish`.

    `microbatches` maps the number of rows in the scheduler's care to how many microbatches shall carry them.
    `max_rows` bounds the rows that run at once and `token_budget` the tokens of one step.
    """

    def __init__(
        self, budget: KvBudget, *, microbatches: Callable[[int], int], max_rows: int, token_budget: int
    ) -> None:
        self.budget = budget
        self._microbatches_for = microbatches
        self._max_rows = max_rows
        self._token_budget = token_budget
        self._waiting: deque[Row] = deque()
        self._running: dict[int, Row] = {}
        self._microbatches: list[_Microbatch] = [_Microbatch()]
        self._released: list[int] = []
        self._failed: list[Row] = []
        self._turn = 0
        self._steps = 0
        self._sequences = 0
        self._arrivals = 0
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def sequences(self) -> int:
        """Sequence ids given out so far, from 0."""
        return self._sequences

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def microbatches(self) -> int:
        """Microbatches that hold rows now."""
        return sum(bool(m.rows) for m in self._microbatches)

    @property
    def rows_per_microbatch(self) -> int:
        return max((len(m.rows) for m in self._microbatches), default=0)

    def can_ever_run(self, row: Row) -> bool:
        """Whether the ring, empty, could hold the row's tokens so far and one more."""
        return self.budget.can_ever_hold(row.length + 1, self._token_budget)

    def add(self, row: Row) -> None:
        row.arrival = self._arrivals
        self._arrivals += 1
        self._waiting.append(row)

    def finish(self, row: Row) -> None:
        """Forget a row, done or cancelled, and free its pages with the next step."""
        if row.sequence >= 0:
            self._vacate(row)
        elif row in self._waiting:
            self._waiting.remove(row)

    def take_failed(self) -> list[Row]:
        """Rows that outgrew an otherwise empty ring; they are no longer in the scheduler's care."""
        failed, self._failed = self._failed, []
        return failed

    def complete(self, step: int, microbatch: int, tokens: Iterable[tuple[int, int]]) -> list[tuple[Row, int]]:
        """A step came back with (sequence, token) drawn. Returns the rows that grew, in the same order, by their token.

        Sequences that were preempted or finished meanwhile are passed over.
        """
        if self._microbatches[microbatch].step != step:
            raise ValueError(f"step {step} is not under way in microbatch {microbatch}")
        self._microbatches[microbatch].step = None
        grown = []
        for sequence, token in tokens:
            row = self._running.get(sequence)
            if row is not None:
                row.generated.append(token)
                grown.append((row, token))
        return grown

    def next_step(self) -> StepPlan | None:
        """The next step of the first idle microbatch, in turn, that has something to compute."""
        self._fit_microbatches()
        count = len(self._microbatches)
        while True:
            failed = len(self._failed)
            for index in ((self._turn + i) % count for i in range(count)):
                microbatch = self._microbatches[index]
                if microbatch.step is None and (plan := self._compose(index, microbatch)) is not None:
                    self._turn = (index + 1) % count
                    return plan
            if len(self._failed) == failed:
                return None
            # A row that failed made room: those that wait for it must not wait for another event.

    def _fit_microbatches(self) -> None:
        wanted = max(1, self._microbatches_for(min(self._max_rows, self.running + self.waiting)))
        while len(self._microbatches) < wanted:
            self._microbatches.append(_Microbatch())
        while (
            len(self._microbatches) > wanted and not self._microbatches[-1].rows and self._microbatches[-1].step is None
        ):
            self._microbatches.pop()

    def _compose(self, index: int, microbatch: _Microbatch) -> StepPlan | None:
        admitted = self._admit(index, microbatch)
        chunks: list[Chunk] = []
        token_ids: list[int] = []
        left = self._token_budget
        # Decodes first (the shortest remainders), then prompts by arrival: a new prompt never delays a running row.
        for row in sorted(microbatch.rows.values(), key=lambda r: (r.length - r.computed > 1, r.arrival)):
            if row.sequence not in microbatch.rows:
                continue  # preempted for an older row of this very step
            count = min(row.length - row.computed, left)
            if count <= 0 or not self._book(row, count):
                continue
            last = row.computed + count == row.length
            wanted = count if row.score_prompt and row.computed < len(row.prompt) else int(last)
            chunks.append(Chunk(row.sequence, row.computed, count, wanted))
            token_ids += row.token_ids(row.computed, count)
            row.computed += count
            left -= count
        # A row can be preempted after its chunk was planned, by an older one later in the order.
        gone = {c.sequence for c in chunks} - microbatch.rows.keys()
        if gone:
            chunks, token_ids = _without(gone, chunks, token_ids)
        if not chunks:
            return None
        microbatch.step = self._steps
        self._steps += 1
        released, self._released = tuple(self._released), []
        alive = tuple(row for row in admitted if row.sequence in microbatch.rows)
        return StepPlan(microbatch.step, index, released, alive, tuple(chunks), token_ids)

    def _admit(self, index: int, microbatch: _Microbatch) -> list[Row]:
        share = -(-min(self._max_rows, self.running + self.waiting) // len(self._microbatches))
        admitted = []
        while self._waiting and self.running < self._max_rows and len(microbatch.rows) < share:
            row = self._waiting[0]
            if not self.budget.fits_row(row.length + self.budget.page_tokens, self._token_budget) and self.running:
                break
            self._waiting.popleft()
            row.sequence, self._sequences = self._sequences, self._sequences + 1
            row.computed = 0
            row.microbatch = index
            self.budget.reserve(row.sequence, row.length, self._token_budget)
            microbatch.rows[row.sequence] = self._running[row.sequence] = row
            admitted.append(row)
        return admitted

    def _book(self, row: Row, count: int) -> bool:
        """Book pages for the row's next chunk, preempting younger rows for it; False where it lost its own place."""
        while not self.budget.fits(row.computed, count, row.sequence):
            youngest = max(self._running.values(), key=lambda r: r.arrival)
            if youngest is row and self.running == 1:
                self._vacate(row)
                self._failed.append(row)
                return False
            self._vacate(youngest)
            self.preemptions += 1
            self._waiting.appendleft(youngest)
            if youngest is row:
                return False
        self.budget.book(row.sequence, row.computed, count)
        return True

    def _vacate(self, row: Row) -> None:
        self.budget.release(row.sequence)
        self._released.append(row.sequence)
        del self._running[row.sequence]
        del self._microbatches[row.microbatch].rows[row.sequence]
        row.sequence = -1


def _without(gone: set[int], chunks: list[Chunk], token_ids: list[int]) -> tuple[list[Chunk], list[int]]:
    kept_chunks: list[Chunk] = []
    kept_ids: list[int] = []
    offset = 0
    for chunk in chunks:
        if chunk.sequence not in gone:
            kept_chunks.append(chunk)
            kept_ids += token_ids[offset : offset + chunk.count]
        offset += chunk.count
    return kept_chunks, kept_ids
