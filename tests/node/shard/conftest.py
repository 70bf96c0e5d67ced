"""Small random Llama models on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SaveLlama = Callable[..., Any]


@pytest.fixture
def save_llama(tmp_path: Path) -> SaveLlama:
    """Writes a random Llama to `tmp_path` and returns the model."""

    def save(*, dtype: torch.dtype = torch.float32, shard_size: str = "1GB", **changes: Any) -> Any:
        torch.manual_seed(3)
        sizes = {
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
        }
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(dtype).eval()
        model.save_pretrained(tmp_path, max_shard_size=shard_size)
        return model

    return save
