"""Layers computed again from a row's recorded inputs, as one prefill, in float32.

The weights are rounded as the audited stage rounds them and the inputs are what it decoded, but sums and activations
are float32: two auditors agree to a millionth whatever hardware they have, so that a verdict hangs on the evidence and
not on who replays it. What the audited stage's own dtype costs in precision is in the tolerances.

Memory is bounded twice: a long row goes through in pieces, and where the layers do not fit they are loaded and dropped
a few at a time, which a row that is all there allows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deserve_models import ModelFiles, inspect
from deserve_network.ring_messages import Chunk
from deserve_node.audit.errors import ReplayImpossible
from deserve_node.engine import KvCache
from deserve_node.engine.batch import pack
from deserve_node.engine.forward import forward
from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS
from deserve_node.shard import Shard
from deserve_node.shard.loading import load_shard

__all__ = ["PIECE_TOKENS", "Replayer", "replay_shard"]

PIECE_TOKENS = 256
"""Of a row that go through the layers at once."""
LEAST_KV_TOKENS = 4096
"""Pools of windows get their share of KV by a reference row; this leaves room for a piece beside a small window."""


class Replayer:
    """Replays rows of one model whose stages compute in `dtype`. Keeps the layers of the last row. Not thread-safe."""

    def __init__(
        self, files: ModelFiles, *, dtype: torch.dtype, device: torch.device, memory_bytes: int = 1 << 62
    ) -> None:
        """`memory_bytes` bounds the weights that are loaded at a time, in float32."""
        self._files = files
        self._dtype = dtype
        self._device = device
        self._memory_bytes = memory_bytes
        self._loaded: Shard | None = None
        self.summary = inspect(files)

    def outputs(self, first: int, last: int, inputs: Tensor) -> Tensor:
        """Hidden states float32 [tokens, hidden] after layers [first, last), which end before the model does.

        `inputs`: token ids int64 [tokens] for first = 0, else hidden states [tokens, hidden]. Raises
        `ReplayImpossible` where not one layer fits, `ShardError` where layers cannot be loaded.
        """
        if last >= self.summary.num_layers:
            raise ValueError(f"layers [{first}, {last}): the last stage has logits, not hidden states")
        return self._through(self._slices(first, last), inputs)

    def logits(self, first: int, inputs: Tensor, wanted: int) -> Iterator[Tensor]:
        """Logits float32 [n, vocabulary] after layers from `first` to the model's end, in pieces, of the last `wanted`
        positions in order. Raises as `outputs`."""
        slices = self._slices(first, self.summary.num_layers)
        hidden = self._through(slices[:-1], inputs)
        yield from replay_shard(self._shard(*slices[-1]), hidden, wanted)

    def drop(self) -> None:
        """Free the layers that are kept."""
        self._loaded = None

    def _through(self, slices: list[tuple[int, int]], inputs: Tensor) -> Tensor:
        for first, last in slices:
            inputs = torch.cat(list(replay_shard(self._shard(first, last), inputs)))
        return inputs

    def _shard(self, first: int, last: int) -> Shard:
        loaded = self._loaded
        if loaded is None or (loaded.first, loaded.last) != (first, last):
            loaded = self._loaded = None  # before the next is there: both would be in memory
            loaded = self._loaded = load_shard(
                self._files, first, last, dtype=torch.float32, device=self._device, weights=self._dtype
            )
        return loaded

    def _slices(self, first: int, last: int) -> list[tuple[int, int]]:
        """Layers [first, last) cut so that the weights of each part fit."""
        summary, parts = self.summary, [first]
        held = summary.head_bytes if first == 0 else 0
        for layer in range(first, last):
            needed = summary.layer_bytes[layer] + (summary.tail_bytes if layer == summary.num_layers - 1 else 0)
            if held + needed > self._memory_bytes and layer > parts[-1]:
                parts.append(layer)
                held = 0
            held += needed
            if held > self._memory_bytes:
                raise ReplayImpossible(
                    f"layer {layer} takes {held} bytes in float32 where {self._memory_bytes} are lent to audits"
                )
        return list(zip(parts, [*parts[1:], last], strict=True))


@torch.inference_mode()
def replay_shard(shard: Shard, inputs: Tensor, wanted: int = 0) -> Iterator[Tensor]:
    """One row through `shard` in pieces, on the CPU: hidden states [n, hidden], or at the tail logits float32
    [n, vocabulary] of the last `wanted` positions. `inputs` as the shard's own, from position 0."""
    tokens = len(inputs)
    per_token = sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in shard.kv_layers)
    room = max(LEAST_KV_TOKENS, tokens + tokens // 8 + 2 * DEFAULT_PAGE_TOKENS)
    cache = KvCache(
        shard.kv_layers,
        kv_bytes=per_token * shard.dtype.itemsize * room,
        dtype=shard.dtype,
        device=shard.device,
    )
    for start in range(0, tokens, PIECE_TOKENS):
        count = min(PIECE_TOKENS, tokens - start)
        own = max(0, min(count, start + count - (tokens - wanted))) if shard.is_tail else 0
        chunk = Chunk(0, start, count, own)
        batch = pack([chunk], cache.shapes, cache.place([chunk]), shard.device)
        piece = inputs[start : start + count]
        outputs = forward(shard, cache, batch, piece if piece.dtype is torch.int64 else piece.to(shard.dtype))
        if not shard.is_tail or own:
            yield outputs.cpu()
