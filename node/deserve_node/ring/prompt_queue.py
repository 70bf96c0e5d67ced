"""Admitted rows that have tokens to compute before they decode: their prompts, or all they had when they lost their
place. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from deserve_node.ring.prompt_pace import PromptPace
from deserve_node.ring.step_draft import StepDraft
from deserve_node.ring.step_plan import Row
from deserve_plan.cost import StepLoad

__all__ = ["PromptQueue"]


class PromptQueue:
    """Oldest first. `chunks_in_flight` bounds the chunks of one row that are under way at once; `whole` prompts are not
    cut but at the most tokens of a step."""

    def __init__(self, *, chunks_in_flight: int, whole: bool) -> None:
        self._chunks_in_flight = chunks_in_flight
        self._whole = whole
        self._rows: OrderedDict[int, Row] = OrderedDict()
        """By sequence."""
        self.tokens = 0
        """Of all rows, still to be scheduled."""

    def add(self, row: Row) -> None:
        self._rows[row.sequence] = row
        self.tokens += row.length

    def remove(self, row: Row) -> None:
        """Forget a row that leaves the ring; one that is not here is no error."""
        if self._rows.pop(row.sequence, None) is not None:
            self.tokens -= row.length - row.computed

    @property
    def ready(self) -> bool:
        """Whether a chunk may enter the ring now."""
        return any(row.chunks_under_way < self._chunks_in_flight for row in self._rows.values())

    def fill(
        self, draft: StepDraft, pace: PromptPace, most_tokens: int, may_ride: Callable[[int, list[int]], bool]
    ) -> None:
        """Add to a step what `pace` lets it take, up to `most_tokens` in all. `may_ride` says of a sequence whether
        its pages have room beside those of others that ride along."""
        for sequence, row in list(self._rows.items()):
            most = min(row.length - row.computed, most_tokens - draft.tokens)
            if most <= 0:
                break
            if row.chunks_under_way >= self._chunks_in_flight:
                continue
            if not may_ride(sequence, [other for _, other in draft.prompts]):
                continue
            scored = row.score_prompt and row.computed < len(row.prompt)
            take = pace.take_whole if self._whole else pace.take
            count = take(row.computed, most, scored=scored)
            if not count:
                break
            self.tokens -= count
            if draft.add_prompt(sequence, row, count, scored=scored):
                del self._rows[sequence]
                if not scored:
                    pace.load += StepLoad(wanted=1)
