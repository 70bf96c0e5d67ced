"""One stage's computation: release, allocate, run the layers, and at the tail draw tokens.

The engine is synchronous and owns its KV; whoever calls it decides on which thread, one step at a time, in the order
in which the head scheduled the steps. It never decides what runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from deserve_network.ring_messages import Admit, Chunk, FailedSequence, SampledToken
from deserve_node.engine.batch import pack
from deserve_node.engine.cache import KvCache
from deserve_node.engine.cuda_graphs import DecodeGraphs
from deserve_node.engine.device_span import DeviceSpan
from deserve_node.engine.forward import forward
from deserve_node.engine.nano_batches import NanoStreams, cut
from deserve_node.engine.pages import PageTable
from deserve_node.sampler import Sampler, SamplingError, SamplingRow, ScoringRow
from deserve_node.shard import Shard

__all__ = ["Engine", "StepOutput"]

Target = TypeVar("Target", SamplingRow, ScoringRow)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """`hidden` [tokens, hidden] on the stage's device for the next one, or at the tail the tokens drawn and scored.

    `takes_s`: how long a device would compute that is not there; None where the step is computed. `span`: when a device
    computes it on which it has only been queued, and before whose end `hidden` is not there; None where that is over.
    """

    hidden: torch.Tensor | None = None
    drawn: tuple[SampledToken, ...] = ()
    scored: tuple[SampledToken, ...] = ()
    failed: tuple[FailedSequence, ...] = ()
    takes_s: float | None = None
    span: DeviceSpan | None = None


@dataclass(slots=True)
class _TailSequence:
    admit: Admit
    generated: list[int] = field(default_factory=list)


class Engine:
    """A shard, its KV, and (at the tail) what the sampler must know of each sequence."""

    def __init__(self, shard: Shard, cache: KvCache) -> None:
        self.shard = shard
        self.cache = cache
        self.parts = 1
        """Into how many parts a step is cut that no graph replays."""
        self.queues = shard.device.type == "cuda"
        self._streams = NanoStreams(shard.device)
        self._graphs = DecodeGraphs(shard, cache) if shard.device.type == "cuda" else None
        self._sampler = Sampler(shard.vocab_size, shard.device) if shard.is_tail else None
        self._sequences: dict[int, _TailSequence] = {}

    def admit(self, admit: Admit) -> None:
        """Tail only: a sequence whose first chunk is about to come."""
        self._sequences[admit.sequence] = _TailSequence(admit, list(admit.generated))

    def knows(self, sequence: int) -> bool:
        return sequence in self._sequences

    def release(self, sequences: Iterable[int]) -> None:
        """Free all that is held for these sequences."""
        for sequence in sequences:
            self._sequences.pop(sequence, None)
            self.cache.release(sequence)

    @torch.inference_mode()
    def run(
        self, chunks: Sequence[Chunk], inputs: torch.Tensor, tables: Sequence[PageTable] | None = None
    ) -> StepOutput:
        """One step. `inputs`: token ids int64 [tokens] at the head, else hidden states [tokens, hidden].

        `tables` are the pages of the chunks in each pool, where a ledger gives them; else they are taken here, and
        `OutOfPagesError` is raised where the head admitted more than it was told fits.
        """
        if not chunks:
            return StepOutput(hidden=inputs if not self.shard.is_tail else None)
        placed = self.cache.place(chunks) if tables is None else tables
        span = DeviceSpan(self.shard.device) if self.queues else None
        outputs = self._forward(chunks, inputs, placed)
        output = self._sample(chunks, outputs) if self.shard.is_tail else StepOutput(hidden=outputs)
        return output if span is None else dataclasses.replace(output, span=span.end())

    def _forward(self, chunks: Sequence[Chunk], inputs: torch.Tensor, tables: Sequence[PageTable]) -> torch.Tensor:
        if self._graphs is not None and self._graphs.take(chunks):
            # Whole, whatever `parts` says: that was measured of a step with prompts, which is never recorded.
            batch = pack(chunks, self.cache.shapes, tables, self.shard.device)
            return self._graphs.run(chunks, batch, inputs)
        groups = cut(chunks, self.parts)
        split = torch.split(inputs, [sum(chunk.count for chunk in chunks[group]) for group in groups])
        outputs = []
        for part in self._streams.each(len(groups)):
            group = groups[part]
            own = [table[group] for table in tables]
            batch = pack(chunks[group], self.cache.shapes, own, self.shard.device)
            outputs.append(forward(self.shard, self.cache, batch, split[part]))
        if len(outputs) == 1:
            return outputs[0]
        self._streams.hand_over(outputs)
        return torch.cat(outputs)

    def _sample(self, chunks: Sequence[Chunk], logits: torch.Tensor) -> StepOutput:
        assert self._sampler is not None
        draw_rows, draw, score_rows, score = [], [], [], []
        row = 0
        for chunk in chunks:
            if not chunk.wanted:
                continue
            state = self._sequences[chunk.sequence]
            admit = state.admit
            known = len(admit.prompt) + len(state.generated)
            for position in range(chunk.start + chunk.count - chunk.wanted, chunk.start + chunk.count):
                following = position + 1
                if following >= known:
                    draw_rows.append(row)
                    draw.append(SamplingRow(chunk.sequence, following, admit.sampling, admit.prompt, state.generated))
                elif following < len(admit.prompt):
                    score_rows.append(row)
                    score.append(
                        ScoringRow(chunk.sequence, following, admit.prompt[following], admit.sampling.prompt_logprobs)
                    )
                row += 1
        failed: dict[int, str] = {}
        scored = _each_on_its_own(self._sampler.score, logits[score_rows], score, failed) if score else []
        if len(draw_rows) != row:
            logits = logits[draw_rows]
        drawn = _each_on_its_own(self._sampler.draw, logits, draw, failed)
        for token in drawn:
            self._sequences[token.sequence].generated.append(token.token)
        return StepOutput(
            drawn=tuple(token for token in drawn if token.sequence not in failed),
            scored=tuple(scored),
            failed=tuple(FailedSequence(sequence, reason) for sequence, reason in failed.items()),
        )


def _each_on_its_own(
    operate: Callable[[torch.Tensor, Sequence[Target]], list[SampledToken]],
    logits: torch.Tensor,
    rows: Sequence[Target],
    failed: dict[int, str],
) -> list[SampledToken]:
    """`operate` over all rows but those of sequences that it refuses, which are noted in `failed`."""
    while rows:
        try:
            return operate(logits, rows)
        except SamplingError as error:
            failed[error.sequence] = error.reason
            kept = [index for index, row in enumerate(rows) if row.sequence != error.sequence]
            logits, rows = logits[kept], [rows[index] for index in kept]
    return []
