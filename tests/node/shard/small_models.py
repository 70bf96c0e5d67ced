"""A small random model of any architecture, in memory."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

__all__ = ["LAYERS", "build"]

LAYERS = 3


def build(name: str, **changes: Any) -> Any:
    """`name` as in a configuration's `model_type`; `changes` are set in the configuration beside the sizes."""
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**sizes, **changes)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval().requires_grad_(False)
