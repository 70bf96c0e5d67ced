"""An engine that computes nothing and says how long its profile has a step take; see `pace` for who waits.

Pages are given and taken by the real bookkeeping, so a head that schedules more than fits fails here as it would on a
real stage. Hidden states are zeros of the right size. Tokens are a hash of the row's seed and the position: equal in
every run, never the end of a sequence, so that a row ends at its limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from deserve_network.ring_messages import Admit, Chunk, SampledToken
from deserve_node.engine.engine import StepOutput
from deserve_node.engine.pages import PagePool, PageTable, PoolShape
from deserve_node.tensors import DTYPES
from deserve_node.timed.profile import StageProfile
from deserve_plan.cost import StepLoad

__all__ = ["TimedEngine", "TimedKv", "TimedShard", "drawn_token"]

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TimedShard:
    """What a timed stage claims to be; see `engine.interface.ShardFacts`."""

    hidden_size: int
    vocab_size: int
    context_length: int
    dtype: torch.dtype
    is_tail: bool


class TimedKv:
    """One pool of pages without any memory behind them."""

    def __init__(self, profile: StageProfile) -> None:
        self.pool = PagePool(PoolShape(0, 0, profile.device_pages, page_tokens=profile.page_tokens))
        self.shapes = (replace(self.pool.shape, host_pages=profile.host_pages),)
        self.page_tokens = profile.page_tokens
        self.page_bytes = profile.page_bytes

    @property
    def pages_used(self) -> int:
        return self.pool.used


@dataclass(slots=True)
class _TailSequence:
    admit: Admit
    length: int
    """Tokens of the prompt and drawn so far."""


class TimedEngine:
    """A `StageEngine` that does not wait itself."""

    queues = False

    def __init__(
        self,
        profile: StageProfile,
        *,
        vocab_size: int,
        context_length: int,
        is_tail: bool,
    ) -> None:
        context = profile.context_tokens or context_length
        self.shard = TimedShard(profile.hidden, vocab_size, context, DTYPES[profile.dtype], is_tail)
        self.cache = TimedKv(profile)
        self.cost = profile.cost(is_tail=is_tail)
        self._sequences: dict[int, _TailSequence] = {}
        self._hidden = torch.zeros(0, profile.hidden, dtype=self.shard.dtype)

    def admit(self, admit: Admit) -> None:
        """Tail only: a sequence whose first chunk is about to come."""
        self._sequences[admit.sequence] = _TailSequence(admit, len(admit.prompt) + len(admit.generated))

    def knows(self, sequence: int) -> bool:
        return sequence in self._sequences

    def release(self, sequences: Iterable[int]) -> None:
        """Free all that is held for these sequences."""
        for sequence in sequences:
            self._sequences.pop(sequence, None)
            self.cache.pool.release(sequence)

    def run(
        self, chunks: Sequence[Chunk], inputs: torch.Tensor, tables: Sequence[PageTable] | None = None
    ) -> StepOutput:
        """One step: pages for `chunks` unless `tables` has them, an answer, and the time that the profile gives it.

        Raises `OutOfPagesError` where the head admitted more than it was told fits.
        """
        load = StepLoad()
        for chunk in chunks:
            if tables is None:
                self.cache.pool.grow(chunk.sequence, chunk.start + chunk.count)
            load += StepLoad.of_chunk(chunk.start, chunk.count, chunk.wanted)
        takes_s = self.cost.step_s(load)
        if self.shard.is_tail:
            return self._sample(chunks, takes_s)
        return StepOutput(hidden=self._zeros(load.tokens), takes_s=takes_s)

    def _zeros(self, tokens: int) -> torch.Tensor:
        """Hidden states [tokens, hidden]. All steps share their memory: nobody writes to it."""
        if tokens > len(self._hidden):
            self._hidden = torch.zeros(2 * tokens, self.shard.hidden_size, dtype=self.shard.dtype)
        return self._hidden[:tokens]

    def _sample(self, chunks: Sequence[Chunk], takes_s: float) -> StepOutput:
        drawn, scored = [], []
        for chunk in chunks:
            end = chunk.start + chunk.count
            for position in range(end - chunk.wanted + 1, end + 1):
                state = self._sequences[chunk.sequence]
                admit = state.admit
                logprob = None if admit.sampling.logprobs < 0 else 0.0
                if position >= state.length:
                    token = drawn_token(admit.sampling.seed, position, self.shard.vocab_size)
                    while token in admit.sampling.stop_token_ids:
                        token = (token + 1) % self.shard.vocab_size
                    drawn.append(SampledToken(chunk.sequence, position, token, logprob))
                    state.length = position + 1
                elif position < len(admit.prompt) and admit.sampling.prompt_logprobs >= 0:
                    scored.append(SampledToken(chunk.sequence, position, admit.prompt[position], 0.0))
        return StepOutput(drawn=tuple(drawn), scored=tuple(scored), takes_s=takes_s)


def drawn_token(seed: int, position: int, vocab_size: int) -> int:
    """A token id that depends on its arguments only: SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    value = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return (value ^ value >> 31) % vocab_size
