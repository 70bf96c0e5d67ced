"""One step of one microbatch as tensors: chunks of many sequences packed end to end, without padding between them.

The packed length is rounded up to a multiple of `ROW_MULTIPLE`, because an fp32 matrix product gives each row the same
bits for every such number of rows (measured: 1-3, 5-7 and 9-11 rows differ). With attention that has one reduction
order per query, a token's logits then do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine.pages import PageTable, PoolShape
from deserve_node.engine.upload import uploaded
from deserve_node.shard.shard import ROW_MULTIPLE

__all__ = ["PackedBatch", "PoolIndex", "pack", "padded"]


@dataclass(frozen=True, slots=True)
class PoolIndex:
    """Where one pool's layers write and read: `slots` int64 [tokens], `page_table` int32 [sequences, pages]."""

    window: int
    chunk: int
    slots: torch.Tensor
    page_table: torch.Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Index tensors of a step: `positions` int64 [padded tokens], `query_start` int32 [sequences + 1],
    `context` int32 [sequences], `wanted` int64 [logits rows]: the packed tokens whose logits are asked for."""

    tokens: int
    positions: torch.Tensor
    query_start: torch.Tensor
    context: torch.Tensor
    pools: tuple[PoolIndex, ...]
    wanted: torch.Tensor


def padded(count: int) -> int:
    """The next multiple of `ROW_MULTIPLE`."""
    return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE


def pack(
    chunks: Sequence[Chunk], shapes: Sequence[PoolShape], tables: Sequence[PageTable], device: torch.device
) -> PackedBatch:
    """Index `chunks`, whose pages on the device are in `tables`, one for each of the pools `shapes`."""
    starts = np.array([c.start for c in chunks], dtype=np.int64)
    counts = np.array([c.count for c in chunks], dtype=np.int64)
    query_start = np.concatenate(([0], np.cumsum(counts)))
    tokens = int(query_start[-1])
    positions = np.zeros(padded(tokens), dtype=np.int64)
    positions[:tokens] = np.arange(tokens) - np.repeat(query_start[:-1] - starts, counts)

    pools = []
    owner = np.repeat(np.arange(len(chunks)), counts)
    real = positions[:tokens]
    for shape, table in zip(shapes, tables, strict=True):
        page, offset = np.divmod(real, shape.page_tokens)
        slots = table[owner, page].astype(np.int64) * shape.page_tokens + offset
        pools.append(
            PoolIndex(
                shape.window,
                shape.chunk,
                slots=uploaded(torch.from_numpy(slots), device),
                page_table=uploaded(torch.from_numpy(table), device),
            )
        )

    wanted = [
        row for c, end in zip(chunks, query_start[1:], strict=True) for row in range(int(end) - c.wanted, int(end))
    ]
    return PackedBatch(
        tokens=tokens,
        positions=uploaded(torch.from_numpy(positions), device),
        query_start=uploaded(torch.from_numpy(query_start.astype(np.int32)), device),
        context=uploaded(torch.from_numpy((starts + counts).astype(np.int32)), device),
        pools=tuple(pools),
        wanted=uploaded(torch.tensor(wanted, dtype=torch.int64), device),
    )
