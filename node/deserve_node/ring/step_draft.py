"""A step while it is put together: packed chunks and their tokens, what they cost, whose prompts ride along. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deserve_network.ring_messages import Chunk, Segment
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.cost import StepLoad
from deserve_plan.plan import RingPlan

__all__ = ["StepDraft"]


class StepDraft:
    """Begins with one token of every row of `decoding`, by sequence, which counts as computed from then on."""

    def __init__(self, decoding: Mapping[int, Row]) -> None:
        self._chunks = [Chunk(sequence, row.computed, 1, 1) for sequence, row in decoding.items()]
        self._token_ids = [row.generated[-1] for row in decoding.values()]
        for row in decoding.values():
            row.computed += 1
        self.decodes = len(self._chunks)
        context = sum(chunk.start for chunk in self._chunks) + self.decodes
        self.load = StepLoad(self.decodes, self.decodes, context, 0)
        """Of the decodes; a `PromptPace` goes on from it."""
        self.prompts: list[tuple[Row, int]] = []
        """Rows of whose prompts a chunk rides along, and their sequences."""
        self._admitted: list[Row] = []

    @property
    def tokens(self) -> int:
        return len(self._token_ids)

    def add_prompt(self, sequence: int, row: Row, count: int, *, scored: bool) -> bool:
        """The next `count` tokens of a row that does not decode yet. Returns whether they were its last: then the
        step draws a token for it."""
        if row.computed == 0:
            self._admitted.append(row)
        self.prompts.append((row, sequence))
        last = row.computed + count == row.length
        self._chunks.append(Chunk(sequence, row.computed, count, count if scored else int(last)))
        self._token_ids += row.token_ids(row.computed, count)
        row.computed += count
        row.chunks_under_way += 1
        return last

    def finished(
        self,
        step: int,
        microbatch: int,
        *,
        load: StepLoad,
        released: tuple[int, ...],
        tune: RingPlan | None,
        codec_of: Callable[[int], str],
        mixed: bool,
    ) -> StepPlan:
        """The step, whose parts together cost `load`. `codec_of` says how a sequence's hidden states are packed;
        `mixed`: not all alike."""
        if mixed:
            segments = self._order_by_codec(codec_of)
        else:
            segments = (Segment(codec_of(self._chunks[0].sequence), self.tokens),)
        return StepPlan(
            step,
            microbatch,
            released,
            tuple(self._admitted),
            tuple(self._chunks),
            self._token_ids,
            segments,
            load,
            self.tokens - self.decodes,
            tune,
        )

    def _order_by_codec(self, codec_of: Callable[[int], str]) -> tuple[Segment, ...]:
        """Put tokens of one codec next to each other. The sort is stable."""
        packed: list[tuple[str, Chunk, list[int]]] = []
        offset = 0
        for chunk in self._chunks:
            packed.append((codec_of(chunk.sequence), chunk, self._token_ids[offset : offset + chunk.count]))
            offset += chunk.count
        packed.sort(key=lambda part: part[0])
        tokens: dict[str, int] = {}
        for codec, chunk, _ in packed:
            tokens[codec] = tokens.get(codec, 0) + chunk.count
        self._chunks = [chunk for _, chunk, _ in packed]
        self._token_ids = [token for _, _, ids in packed for token in ids]
        return tuple(Segment(codec, count) for codec, count in tokens.items())
