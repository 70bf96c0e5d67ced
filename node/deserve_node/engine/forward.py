"""A packed batch through the layers of a shard, whose attention reads and writes the pages of a cache."""

from __future__ import annotations

import torch

from deserve_kernels import paged_attention, write_kv
from deserve_node.engine.batch import PackedBatch, padded
from deserve_node.engine.cache import KvCache
from deserve_node.engine.upload import uploaded
from deserve_node.shard import Shard

__all__ = ["forward"]


def forward(shard: Shard, cache: KvCache, batch: PackedBatch, inputs: torch.Tensor) -> torch.Tensor:
    """`inputs` are token ids int64 [tokens] at the head, else hidden states [tokens, hidden].

    Returns hidden states [tokens, hidden], or at the tail logits fp32 [logits rows, vocabulary].
    """
    packed = inputs.new_zeros((padded(batch.tokens), *inputs.shape[1:]), device=shard.device)
    packed[: batch.tokens] = uploaded(inputs, shard.device)
    attend = _Attend(cache, batch)
    if shard.is_tail:
        return shard.forward(packed, batch.positions, attend, batch.wanted)
    return shard.forward(packed, batch.positions, attend)[: batch.tokens]


class _Attend:
    """Attention of one step: writes the new keys and values to their pages, then attends over the pages."""

    def __init__(self, cache: KvCache, batch: PackedBatch) -> None:
        self._cache = cache
        self._batch = batch

    def __call__(
        self,
        layer: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        softcap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        batch = self._batch
        pool = batch.pools[self._cache.pool_of[layer]]
        key_pages, value_pages = self._cache.pages(layer)
        write_kv(key_pages, value_pages, keys[: batch.tokens], values[: batch.tokens], pool.slots)
        return paged_attention(
            queries,
            key_pages,
            value_pages,
            page_table=pool.page_table,
            query_start=batch.query_start,
            context=batch.context,
            scale=scale,
            window=pool.window,
            chunk=pool.chunk,
            softcap=softcap,
            sinks=sinks,
        )
