"""A loaded range of decoder layers and how tokens or hidden states pass through it.

The arithmetic is transformers' own, or a kernel's that computes the same; attention and its memory are the caller's
(`attend`). All sequences are packed
into one row [1, T] with a position per token; nothing here depends on which token belongs to whom, and everything
outside the matrix products works row by row. Rows beyond the real ones (padding, position 0) change no other row.

Bit-equality over batch layouts therefore rests on the matrix products: the engine pads T to a multiple of 16, the
rows that reach the output head are padded here to the same multiple, and `deserve_node.shard.experts` pads the rows
that reach an expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deserve_node.shard.attention import Attend, AttentionSlot, KvLayer
from deserve_node.shard.cut import Boundary

__all__ = ["ROW_MULTIPLE", "Shard"]

ROW_MULTIPLE = 16
"""fp32 matrix products give a row the same bits for every row count that is a multiple of this."""


class Shard:
    """Layers [first, last) of a model. One call of `forward` at a time; several shards may run at once.

    `tensor_bytes` is the memory of its parameters and buffers, tied ones counted once.
    """

    def __init__(self, model: Any, first: int, last: int, slot: AttentionSlot, boundary: Boundary) -> None:
        config = model.config.get_text_config()
        self._model = model
        self._slot = slot
        self._boundary = boundary
        self.first = first
        self.last = last
        self.num_layers: int = config.num_hidden_layers
        self.is_head = first == 0
        self.is_tail = last == self.num_layers
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.context_length: int = config.max_position_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.kv_layers: tuple[KvLayer, ...] = tuple(slot.probed[layer] for layer in range(first, last))
        tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
        self.tensor_bytes = sum(tensors.values())

    @torch.inference_mode()
    def forward(self, inputs: Tensor, positions: Tensor, attend: Attend, wanted: Tensor | None = None) -> Tensor:
        """One step over T packed tokens.

        `inputs` are int64 token ids [T] at the head, hidden states [T, hidden] elsewhere; `positions` int64 [T];
        `wanted` (tail only) int64 packed indices whose logits are asked for, all T if None. `attend` is called once a
        layer, in order. Returns hidden states [T, hidden] in `dtype`, or at the tail logits fp32 [len(wanted), V].
        """
        self._slot.attend = attend
        self._slot.positions = positions
        try:
            if not self.is_tail:
                self._run(self._model, inputs, positions)
                assert self._boundary.leaving is not None
                return self._boundary.leaving[0]
            if wanted is None:
                logits: Tensor = self._run(self._model, inputs, positions).logits[0]
                return logits.float()
            count = len(wanted)
            if count == 0:
                self._run(self._model.base_model, inputs, positions)
                return torch.empty(0, self.vocab_size, dtype=torch.float32, device=self.device)
            padding = -count % ROW_MULTIPLE
            rows = torch.cat([wanted, wanted[:1].expand(padding)]) if padding else wanted
            logits = self._run(self._model, inputs, positions, logits_to_keep=rows).logits[0, :count]
            return logits.float()
        finally:
            self._slot.attend = self._slot.positions = None
            self._boundary.entering = self._boundary.leaving = None

    def _run(self, module: Any, inputs: Tensor, positions: Tensor, **kwargs: Any) -> Any:
        if self.is_head:
            kwargs["input_ids"] = inputs.unsqueeze(0)
        else:
            self._boundary.entering = kwargs["inputs_embeds"] = inputs.unsqueeze(0)
        return module(position_ids=positions.unsqueeze(0), use_cache=False, **kwargs)
