"""Index tensors of a decode step at fixed addresses, for a recorded CUDA graph: steps of up to `rows` rows fit in.

A graph replays with the shapes it was recorded with, so a smaller step is filled up with repetitions of its last row.
They write the same keys and values to the same slot and read the same pages, so that nothing has to be left out, and
their results are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine.batch import PackedBatch, PoolIndex
from deserve_node.engine.pages import PoolShape
from deserve_node.engine.upload import uploaded

__all__ = ["DecodeBuffers", "bucket", "is_decode"]

FINE, COARSE = 16, 64
"""Steps of buckets: up to 64 rows by the first, beyond by the second."""


def bucket(rows: int) -> int:
    """The number of rows with which a step of `rows` rows is replayed."""
    grain = FINE if rows <= COARSE else COARSE
    return -(-rows // grain) * grain


def is_decode(chunks: Sequence[Chunk]) -> bool:
    """Whether each row has one token, and all or none of them are wanted."""
    return all(c.count == 1 for c in chunks) and len({c.wanted for c in chunks}) == 1


class DecodeBuffers:
    """For `rows` rows of at most `context` tokens over pools of `shapes`; `batch` is what a graph is recorded with."""

    def __init__(
        self, rows: int, context: int, shapes: Sequence[PoolShape], device: torch.device, *, wanted: bool
    ) -> None:
        self.rows = rows
        every = torch.arange(rows, device=device)
        self.batch = PackedBatch(
            tokens=rows,
            positions=torch.zeros(rows, dtype=torch.int64, device=device),
            query_start=torch.arange(rows + 1, dtype=torch.int32, device=device),
            context=torch.ones(rows, dtype=torch.int32, device=device),
            pools=tuple(
                PoolIndex(
                    shape.window,
                    shape.chunk,
                    slots=torch.zeros(rows, dtype=torch.int64, device=device),
                    page_table=torch.zeros(rows, -(-context // shape.page_tokens), dtype=torch.int32, device=device),
                )
                for shape in shapes
            ),
            wanted=every if wanted else every[:0],
        )
        self.inputs: torch.Tensor | None = None

    def fill(self, batch: PackedBatch, inputs: torch.Tensor) -> None:
        """Take over a packed decode step of at most `rows` rows with its inputs [tokens, ...]."""
        if self.inputs is None:
            self.inputs = inputs.new_zeros((self.rows, *inputs.shape[1:]), device=self.batch.positions.device)
        real = batch.tokens
        pairs = [
            (self.batch.positions, batch.positions[:real]),
            (self.batch.context, batch.context),
            (self.inputs, uploaded(inputs, self.inputs.device)),
        ]
        for own, given in zip(self.batch.pools, batch.pools, strict=True):
            pairs.append((own.slots, given.slots))
            pairs.append((own.page_table[:, : given.page_table.shape[1]], given.page_table))
        for own_tensor, given_tensor in pairs:
            own_tensor[:real] = given_tensor
            own_tensor[real:] = given_tensor[-1]
