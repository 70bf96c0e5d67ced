"""The one attention function through which every architecture of transformers reaches our paged KV.

It holds no keys and builds no masks. transformers looks it up by name in its global registry, so it must be
stateless: whose call it is, is written on the attention module (`AttentionSlot`), set once when a shard is loaded.
Two shards in one process therefore never meet.

A second registration, the probe, is used for a single token right after loading. Only there transformers is asked to
build masks, and what it asks for tells each layer's window or chunk, whatever its configuration calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deserve_node.errors import UnsupportedModelError

__all__ = ["PROBE", "SERVE", "Attend", "AttentionSlot", "KvLayer", "Reach", "register"]

SERVE = "deserve"
PROBE = "deserve_probe"

_SLOT = "deserve_slot"

# What layers may hand to attention beside queries, keys and values. `position_ids` and the caching arguments only
# matter to transformers' own kernels; anything else changes the result and is not understood here.
_UNDERSTOOD = {"scaling", "softcap", "s_aux", "sliding_window"}
_IRRELEVANT = {
    "dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_attentions", "position_embeddings",
    "output_hidden_states", "output_router_logits", "return_dict", "past_key_values", "encoder_attention_mask",
}  # fmt: skip


class Attend(Protocol):
    """Attention over the keys a sequence has had so far; the engine's, called once a layer.

    queries [T, H, Dk], keys [T, KVH, Dk], values [T, KVH, Dv], possibly strided views; sinks [H] or None; returns
    [T, H, Dv] in the queries' dtype. Window and chunk of the layer are in `Shard.kv_layers`.
    """

    def __call__(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        scale: float,
        softcap: float,
        sinks: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class KvLayer:
    """What one layer keeps per token, and how far back a query may look."""

    layer: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int
    """A query at p sees keys of (p - window, p]; 0 is off."""
    chunk: int
    """A query at p sees keys of [p // chunk * chunk, p]; 0 is off."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Stands for the mask in the probe."""

    window: int = 0
    chunk: int = 0


class AttentionSlot:
    """Ties the attention modules of one shard to the `attend` and the positions of the call in progress."""

    __slots__ = ("attend", "positions", "probed", "temperatures")

    def __init__(self) -> None:
        self.attend: Attend | None = None
        self.positions: Tensor | None = None
        self.probed: dict[int, KvLayer] = {}
        self.temperatures: dict[int, tuple[float, float]] = {}

    def claim(self, layers: dict[int, nn.Module]) -> None:
        """Mark every module inside `layers` (index -> decoder layer) as this slot's.

        Llama 4 scales the queries of its unrotated layers by their position, which it counts from the start of the
        batch; that is switched off there and done in `_serve` with each token's own position.
        """
        for index, layer in layers.items():
            for module in layer.modules():
                setattr(module, _SLOT, (self, index))
                plain: dict[str, Any] = vars(module)
                if plain.get("attn_temperature_tuning") and not plain.get("use_rope", True):
                    plain["attn_temperature_tuning"] = False
                    self.temperatures[index] = (float(plain["floor_scale"]), float(plain["attn_scale"]))

    def temperature(self, layer: int) -> Tensor | None:
        """Factor of each query, fp32 [T, 1, 1] (https://arxiv.org/abs/2501.19399), or None where it is 1."""
        if layer not in self.temperatures or self.positions is None:
            return None
        floor, scale = self.temperatures[layer]
        steps = torch.floor((self.positions.float() + 1.0) / floor)
        return (torch.log1p(steps) * scale + 1.0)[:, None, None]


def register() -> None:
    """Make both functions known to transformers; harmless when repeated."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(SERVE, _serve)
    AttentionInterface.register(PROBE, _probe)
    AttentionMaskInterface.register(PROBE, _probe_mask)


def _serve(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    slot, layer = getattr(module, _SLOT)
    queries = query[0].transpose(0, 1)
    if slot.temperatures and (factor := slot.temperature(layer)) is not None:
        queries = (queries * factor).to(queries.dtype)
    mixed = slot.attend(
        layer,
        queries,
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap or 0.0,
        sinks=s_aux,
    )
    return mixed.unsqueeze(0), None


def _probe(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    where = getattr(module, _SLOT, None)
    if where is None:
        raise UnsupportedModelError(f"{type(module).__name__}: attention outside the decoder layers")
    slot, layer = where
    strange = [n for n, v in kwargs.items() if n not in _UNDERSTOOD | _IRRELEVANT and v is not None]
    if strange:
        raise UnsupportedModelError(f"layer {layer}: {type(module).__name__} passes {strange[0]!r} to attention")
    if layer in slot.probed:
        raise UnsupportedModelError(f"layer {layer}: attends more than once")
    if not isinstance(attention_mask, Reach):
        raise UnsupportedModelError(f"layer {layer}: its mask is neither causal, nor a sliding window, nor a chunk")
    slot.probed[layer] = KvLayer(
        layer=layer,
        kv_heads=key.shape[1],
        key_dim=key.shape[3],
        value_dim=value.shape[3],
        window=attention_mask.window,
        chunk=attention_mask.chunk,
    )
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


def _probe_mask(*, mask_function: Callable[..., Any], local_size: int | None = None, **_: Any) -> Reach | None:
    """Instead of a mask: which of the three shapes that a ring serves `mask_function(batch, head, q, kv)` has.

    None for any other. That is no error yet: models also build masks that none of their layers uses.
    """
    size = local_size or 1
    candidates = [Reach()] if not local_size else [Reach(window=size), Reach(chunk=size), Reach()]
    edges = {0, 1, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1, 3 * size - 1, 3 * size}
    points = torch.tensor(sorted(edges))
    query, key = points[:, None], points[None, :]
    batch = torch.zeros((), dtype=torch.int64)
    seen = torch.as_tensor(mask_function(batch, batch, query, key)).expand(len(points), len(points))
    for reach in candidates:
        expected = key <= query
        if reach.window:
            expected = expected & (key > query - reach.window)
        if reach.chunk:
            expected = expected & (key >= query // reach.chunk * reach.chunk)
        if torch.equal(seen, expected):
            return reach
    return None
