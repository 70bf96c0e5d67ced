"""What a ring asks of the engine of a stage, whether it computes or only says how long computing would take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from deserve_network.ring_messages import Admit, Chunk
from deserve_node.engine.engine import StepOutput
from deserve_node.engine.pages import PageTable, PoolShape

__all__ = ["KvAccount", "ShardFacts", "StageEngine"]


class ShardFacts(Protocol):
    """What a stage is, as its neighbours see it."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states."""


class KvAccount(Protocol):
    """The KV pages of a stage."""

    @property
    def page_tokens(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def shapes(self) -> tuple[PoolShape, ...]: ...
    @property
    def pages_used(self) -> int: ...


class StageEngine(Protocol):
    """Synchronous; one step at a time, in the order in which the head scheduled the steps."""

    @property
    def shard(self) -> ShardFacts: ...
    @property
    def cache(self) -> KvAccount: ...
    @property
    def queues(self) -> bool:
        """Whether `run` returns when a step is queued on its device; the output then has a `span`."""

    def admit(self, admit: Admit) -> None:
        """Tail only: a sequence whose first chunk is about to come."""

    def knows(self, sequence: int) -> bool:
        """Tail only: whether the sequence was admitted and has not been released."""

    def release(self, sequences: Iterable[int]) -> None:
        """Free all that is held for these sequences."""

    def run(
        self, chunks: Sequence[Chunk], inputs: torch.Tensor, tables: Sequence[PageTable] | None = None
    ) -> StepOutput:
        """One step. `inputs`: token ids int64 [tokens] at the head, else hidden states [tokens, hidden].

        `tables` are the chunks' pages in each pool where a ledger keeps account of them; else the engine does.
        """
