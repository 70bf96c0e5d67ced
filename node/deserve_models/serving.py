"""What a ring cannot serve, told from config.json before a byte of weights is read.

A ring hands hidden states from stage to stage and keeps paged keys and values, nothing else. Whatever needs more
state than that (recurrent layers, keys shared across layers, a second input) is refused here with the reason. What
slips through is caught when a shard is loaded, where every layer must call the attention function exactly once.
"""

from __future__ import annotations

from typing import Any

from deserve_models.errors import UnservableModelError
from deserve_models.files import text_config

__all__ = ["check_servable"]

_ALIBI_TYPES = {"bloom", "mpt"}
_SERVED_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


def check_servable(config: dict[str, Any]) -> None:
    """Raises `UnservableModelError` with the reason, naming the key of config.json that shows it."""
    text = text_config(config)
    model_type = config.get("model_type", "a model without model_type")
    for reason in _reasons(config, text):
        raise UnservableModelError(f"{model_type}: {reason}")


def _reasons(config: dict[str, Any], text: dict[str, Any]) -> list[str]:
    found = []
    if "auto_map" in config and not config.get("model_type"):
        found.append("auto_map without model_type: it needs code from its repository, which is never run")
    if config.get("is_encoder_decoder"):
        found.append("is_encoder_decoder: an encoder has no place in a ring of decoder layers")
    quantization = config.get("quantization_config") or text.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        found.append(f"quantization_config: {method} weights are not supported; use a float checkpoint")
    for key in ("layer_types", "layers_block_type"):
        foreign = sorted({str(kind) for kind in text.get(key) or ()} - _SERVED_LAYER_TYPES)
        if foreign:
            found.append(f"{key}: {foreign[0]} layers keep state other than keys and values")
    if text.get("num_kv_shared_layers"):
        found.append("num_kv_shared_layers: layers read the keys of other layers, which may be on another stage")
    if text.get("hidden_size_per_layer_input"):
        found.append("hidden_size_per_layer_input: every layer needs the token ids, which stay at the head")
    if text.get("model_type") in _ALIBI_TYPES or text.get("alibi") or text.get("position_embedding_type") == "alibi":
        found.append("alibi: attention with position biases is not supported")
    if not any(text.get(key) for key in ("num_attention_heads", "n_head", "n_heads", "num_heads")):
        found.append("no attention heads: its layers keep state other than keys and values")
    return found
