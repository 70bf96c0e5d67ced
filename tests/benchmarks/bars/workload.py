"""The models and rows that the bars on real compute share: a random Llama and SmolLM2, prompts of random tokens."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MODELS", "VOCABULARY", "Model", "cache_directory", "make_bench_model", "make_prompts", "request_body"]

VOCABULARY = 8192
"""Of the bench model; prompts for SmolLM2 draw from the same ids."""


@dataclass(frozen=True)
class Model:
    """`source` is what `--model` gets."""

    name: str
    source: str


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deserve-net"


MODELS = (Model("bench", str(cache_directory() / "bench-model")), Model("SmolLM2", "demo"))


def make_bench_model() -> Path:
    """Random Llama of 27M parameters: 8 layers, hidden 512, intermediate 1376, 8 heads, 4 KV heads, fp32."""
    directory = Path(MODELS[0].source)
    if not (directory / "config.json").exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def make_prompts(count: int, shortest: int = 16, longest: int = 128) -> list[list[int]]:
    """Token ids, the same in every run: of `shortest` to `longest` tokens each."""
    draw = random.Random(0)
    return [[draw.randrange(10, VOCABULARY) for _ in range(draw.randint(shortest, longest))] for _ in range(count)]


def request_body(model: str, prompt: list[int], new_tokens: int, **more: Any) -> dict[str, Any]:
    """A completion of exactly `new_tokens` greedy tokens."""
    fixed = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
    return {**fixed, "return_token_ids": True, **more}
