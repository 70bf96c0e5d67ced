"""What a model asks of a ring, from its configuration and safetensors headers: no weights are read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from deserve_models.errors import ModelFileError, UnservableModelError
from deserve_models.files import ModelFiles, text_config
from deserve_models.layers import has_output_head, is_embedding, is_language, is_token_embedding, layer_of
from deserve_models.serving import check_servable

__all__ = ["DTYPE_SIZES", "ModelSummary", "inspect"]

DTYPE_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelSummary:
    """Sizes of a model. Bytes count every parameter in the precision that `inspect` was asked for."""

    id: str
    revision: str
    digest: str
    architecture: str
    """`model_type` of config.json."""
    dtype: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    context_length: int
    parameters: int
    tied_embeddings: bool
    layer_bytes: tuple[int, ...]
    """Per decoder layer, in order."""
    head_bytes: int
    """What the first stage holds beside its layers: the embeddings."""
    tail_bytes: int
    """What the last stage holds beside its layers: norm and output head (or the embedding it is tied to)."""
    kv_bytes_per_token_layer: int
    """Keys and values of one token in the widest layer."""
    unservable: str
    """Why a ring cannot serve it; empty if it can, as far as configuration and headers tell."""

    @property
    def edge_bytes(self) -> int:
        """The larger of what the two ends hold beside layers."""
        return max(self.head_bytes, self.tail_bytes)

    @property
    def servable(self) -> bool:
        return not self.unservable


def inspect(files: ModelFiles, *, dtype: str = "float32") -> ModelSummary:
    """Summarise `files` as a swarm that computes in `dtype` ("float32", "bfloat16", "float16") would hold it.

    A Hub model whose tensors are not here costs two small requests a file. Raises `ModelFileError` where
    config.json lacks a number that every decoder has, or a header is damaged.
    """
    item = DTYPE_SIZES[dtype]
    config = files.config()
    tensors = files.tensors()
    try:
        check_servable(config)
        unservable = ""
    except UnservableModelError as error:
        unservable = str(error)
    num_layers = _number(files, config, "num_hidden_layers", "n_layer", "num_layers")
    per_layer: dict[int, int] = defaultdict(int)
    head = tail = tied_head = parameters = 0
    tied = not has_output_head(tensors)
    for name, entry in tensors.items():
        size = entry.elements * item
        layer = layer_of(name)
        if not is_language(name) or (layer is not None and layer >= num_layers):
            continue
        parameters += entry.elements
        if layer is not None:
            per_layer[layer] += size
        elif is_embedding(name):
            head += size
            tied_head += size if tied and is_token_embedding(name) else 0
        else:
            tail += size
    if sorted(per_layer) != list(range(num_layers)) and not unservable:
        raise ModelFileError(
            f"{files.directory}: config.json tells of {num_layers} layers, the tensors of {len(per_layer)}"
        )
    return ModelSummary(
        id=files.id,
        revision=files.revision,
        digest=files.digest,
        architecture=str(config.get("model_type", "unknown")),
        dtype=dtype,
        num_layers=num_layers,
        hidden_size=_number(files, config, "hidden_size", "n_embd", "d_model"),
        vocab_size=_number(files, config, "vocab_size"),
        context_length=_number(files, config, "max_position_embeddings", "n_positions", "max_seq_len"),
        parameters=parameters,
        tied_embeddings=tied,
        layer_bytes=tuple(per_layer[layer] for layer in range(num_layers)),
        head_bytes=head,
        tail_bytes=tail + tied_head,
        kv_bytes_per_token_layer=_kv_elements(files, config) * item,
        unservable=unservable,
    )


def _kv_elements(files: ModelFiles, config: dict[str, Any]) -> int:
    text = text_config(config)
    heads = _number(files, config, "num_attention_heads", "n_head")
    if text.get("kv_lora_rank"):
        # Latent attention is served expanded: full keys and values per head.
        key = int(text["qk_nope_head_dim"]) + int(text["qk_rope_head_dim"])
        return heads * (key + int(text["v_head_dim"]))
    kv_heads = int(text.get("num_key_value_heads") or heads)
    hidden = _number(files, config, "hidden_size", "n_embd", "d_model")
    head_dim = int(text.get("head_dim") or hidden // heads)
    return 2 * kv_heads * head_dim


def _number(files: ModelFiles, config: dict[str, Any], *keys: str) -> int:
    """The first of `keys` that the configuration has: architectures name the same number differently."""
    text = text_config(config)
    for key in keys:
        value = text.get(key, config.get(key))
        if type(value) is int and value > 0:
            return value
    raise ModelFileError(f"{files.directory / 'config.json'}: no {keys[0]}")
