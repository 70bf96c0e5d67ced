"""A check at load time that a packed token's result depends on nothing but itself and its attention.

A ring packs tokens of many sequences in any order. An architecture that counts positions from the start of the
batch, mixes neighbouring tokens, or rotates by the longest sequence present (longrope) would compute nonsense
without failing; here it is found out and refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deserve_node.errors import UnsupportedModelError
from deserve_node.shard.shard import ROW_MULTIPLE, Shard

__all__ = ["check_rows_are_independent"]

# Of the largest value. Honest differences come from experts that see other row counts, and are far smaller.
_TOLERANCE = 0.02


@torch.inference_mode()
def check_rows_are_independent(shard: Shard) -> None:
    """Run one token twice, among other neighbours and in another place. Raises `UnsupportedModelError`."""
    generator = torch.Generator().manual_seed(0)
    # The neighbours' positions reach to the end of the context in the second run only.
    near = torch.arange(ROW_MULTIPLE)
    far = torch.linspace(0, shard.context_length - 1, ROW_MULTIPLE).long()
    first, second = _random_inputs(shard, generator), _random_inputs(shard, generator)
    here, there = 3, 7
    second[there] = first[here]
    far[there] = near[here]
    for before, after in zip(_trace(shard, first, near, here), _trace(shard, second, far, there), strict=True):
        if float((before - after).abs().max()) > _TOLERANCE * float(before.abs().max()):
            raise UnsupportedModelError(
                f"layers [{shard.first}, {shard.last}): the result of a token depends on its neighbours in the batch"
            )


def _random_inputs(shard: Shard, generator: torch.Generator) -> Tensor:
    if shard.is_head:
        return torch.randint(shard.vocab_size, (ROW_MULTIPLE,), generator=generator)
    return torch.randn(ROW_MULTIPLE, shard.hidden_size, generator=generator).to(shard.dtype)


def _trace(shard: Shard, inputs: Tensor, positions: Tensor, row: int) -> list[Tensor]:
    """Queries, keys and values of `row` in every layer, then its output. Every token attends to itself alone."""
    seen: list[Tensor] = []

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor, **_: Any) -> Tensor:
        seen.extend(tensor[row].float() for tensor in (queries, keys, values))
        return values.repeat_interleave(queries.shape[1] // keys.shape[1], 1)

    wanted = torch.tensor([row], device=shard.device) if shard.is_tail else None
    out = shard.forward(inputs.to(shard.device), positions.to(shard.device), attend, wanted)
    return [*seen, out[0 if shard.is_tail else row].float()]
