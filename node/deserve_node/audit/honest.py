"""Rows served as a ring's stage would serve them, without a ring: prompts, then one token a step, many rows at a time.

What calibration and the detection table measure. The inputs of all positions are known beforehand, so decoding needs no
tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deserve_kernels.codecs import CODECS
from deserve_network.ring_messages import Chunk
from deserve_node.engine import KvCache
from deserve_node.engine.batch import pack
from deserve_node.engine.forward import forward
from deserve_node.shard import Shard

__all__ = ["crossed", "serve_rows"]


@torch.inference_mode()
def serve_rows(shard: Shard, rows: Sequence[Tensor], *, prompt: int, batch: int) -> list[Tensor]:
    """Outputs of `rows`, inputs [tokens, ...] of one length each: `prompt` positions in one chunk, the others one a
    step of `batch` rows. Hidden states [tokens, hidden]; at the tail logits float32 [tokens - prompt + 1, vocabulary].
    """
    outputs: list[Tensor] = []
    for start in range(0, len(rows), batch):
        outputs.extend(_serve_batch(shard, torch.stack(list(rows[start : start + batch])), prompt))
    return outputs


def crossed(hidden: Tensor, codec: str, dtype: torch.dtype) -> Tensor:
    """`hidden` [tokens, hidden] as the next stage decodes it: computed in `dtype`, packed by `codec`."""
    wire = CODECS[codec].encode(hidden.to(dtype))
    return CODECS[codec].decode(memoryview(bytes(wire)), (hidden.shape[0], hidden.shape[1]), dtype)


def _serve_batch(shard: Shard, rows: Tensor, prompt: int) -> Tensor:
    count, tokens = rows.shape[:2]
    per_token = sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in shard.kv_layers)
    cache = KvCache(
        shard.kv_layers,
        kv_bytes=per_token * shard.dtype.itemsize * max(4096, 2 * count * (tokens + 32)),
        dtype=shard.dtype,
        device=shard.device,
    )
    inputs = rows if rows.dtype is torch.int64 else rows.to(shard.dtype)
    outputs = []
    for start, length in [(0, prompt), *((position, 1) for position in range(prompt, tokens))]:
        chunks = [Chunk(row, start, length, int(shard.is_tail)) for row in range(count)]
        batch = pack(chunks, cache.shapes, cache.place(chunks), shard.device)
        step = forward(shard, cache, batch, inputs[:, start : start + length].flatten(0, 1))
        outputs.append(step.view(count, -1, step.shape[-1]).cpu())
    return torch.cat(outputs, dim=1)
