"""A checkpoint of given shapes with random weights: no hub, made on the device layer by layer, written once.

Written to disk because the nodes of a ring are processes, and load their layers as they load any model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from card.roofline import Shape

__all__ = ["make_random_llama"]


def make_random_llama(directory: Path, shape: Shape, *, device: torch.device, dtype: torch.dtype) -> Path:
    """Write `shape` as a Llama in Hugging Face layout, one file a layer; what is there already stays."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        # Scaled so that hidden states keep their size through the layers.
        values = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.float32)
        return (values / math.sqrt(columns)).to(dtype).cpu()

    index: dict[str, str] = {}
    total = 0

    def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal total
        save_file(tensors, directory / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))
        total += sum(tensor.nbytes for tensor in tensors.values())

    hidden, query, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    ones = torch.ones(hidden, dtype=dtype)
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        tensors = {
            f"{name}.self_attn.q_proj.weight": matrix(query, hidden),
            f"{name}.self_attn.k_proj.weight": matrix(kv, hidden),
            f"{name}.self_attn.v_proj.weight": matrix(kv, hidden),
            f"{name}.self_attn.o_proj.weight": matrix(hidden, query),
            f"{name}.mlp.gate_proj.weight": matrix(shape.intermediate, hidden),
            f"{name}.mlp.up_proj.weight": matrix(shape.intermediate, hidden),
            f"{name}.mlp.down_proj.weight": matrix(hidden, shape.intermediate),
            f"{name}.input_layernorm.weight": ones.clone(),
            f"{name}.post_attention_layernorm.weight": ones.clone(),
        }
        write(f"layer-{layer:03}.safetensors", tensors)
    edges = {
        "model.embed_tokens.weight": matrix(shape.vocabulary, hidden),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": matrix(shape.vocabulary, hidden),
    }
    write("edges.safetensors", edges)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    # Last: it says that the rest is whole.
    (directory / "config.json").write_text(json.dumps(_config(shape, dtype), indent=1))
    return directory


def _config(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 8_192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
