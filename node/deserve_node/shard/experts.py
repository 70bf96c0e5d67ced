"""The experts function of a shard on the CPU: one expert after another, each over whole multiples of 16 rows.

transformers' own functions multiply as many rows as the batch routes to an expert, and add a token's experts up in an
order that may follow the batch. Here an expert's rows are padded, as the batch and the output head's rows are, and a
token's experts are added in the order in which its router names them: its result follows from that token alone.

It serves the classes that reach transformers' experts interface, with their own gates, limits, biases and layouts of
weights. Others keep their own arithmetic: Llama 4 runs every expert over every row of the batch, which is padded. On
other devices than the CPU transformers' choice is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from deserve_node.shard.linear import product
from deserve_node.shard.shard import ROW_MULTIPLE

__all__ = ["SERVE_EXPERTS", "register_experts"]

SERVE_EXPERTS = "deserve"


def register_experts() -> None:
    """Make the function known to transformers; harmless when repeated."""
    ALL_EXPERTS_FUNCTIONS.register(SERVE_EXPERTS, _serve_experts)


def _serve_experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states [T, hidden], top_k_index int64 [T, k], top_k_weights [T, k]; returns [T, hidden], summed in fp32.

    An index from `num_experts` on stands for no expert and adds nothing.
    """
    tokens, top_k = top_k_index.shape
    experts = top_k_index.reshape(-1)
    by_expert = experts.argsort(stable=True)
    outputs = hidden_states.new_zeros(tokens * top_k, hidden_states.shape[-1])
    start = 0
    for expert, count in enumerate(experts.bincount().tolist()[: module.num_experts]):
        if count:
            routed = by_expert[start : start + count]
            rows = hidden_states.new_zeros(-(-count // ROW_MULTIPLE) * ROW_MULTIPLE, hidden_states.shape[-1])
            rows[:count] = hidden_states[routed // top_k]
            outputs[routed] = _run_expert(module, expert, rows)[:count].to(outputs.dtype)
            start += count
    weighted = outputs.view(tokens, top_k, -1) * top_k_weights.unsqueeze(-1)
    total = weighted[:, 0].float()
    for place in range(1, top_k):
        total = total + weighted[:, place]
    return total.to(hidden_states.dtype)


def _run_expert(module: Any, expert: int, rows: Tensor) -> Tensor:
    """One expert over `rows` [n, hidden]; the flags are those of transformers' `use_experts_implementation`."""
    inner = _project(module, "gate_up_proj" if module.has_gate else "up_proj", expert, rows)
    if module.has_gate:
        # gpt-oss calls sigmoid itself; in small parts threads do not cut it inside a vector (`shard.activation`).
        parts = len(inner) // ROW_MULTIPLE
        inner = torch.cat([module._apply_gate(part) for part in inner.tensor_split(parts)])
    else:
        inner = module.act_fn(inner)
    outer = _project(module, "down_proj", expert, inner)
    return module.post_expert_norm(outer) if module.has_post_expert_norm else outer


def _project(module: nn.Module, name: str, expert: int, rows: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return product(rows.to(weight.dtype), weight.t() if module.is_transposed else weight, bias)
