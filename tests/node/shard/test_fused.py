"""Modules that compute Llama's norm or gated MLP are fused, whatever they are called, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import LAYERS, build
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from deserve_models import resolve
from deserve_node.shard import fused
from deserve_node.shard.fused import GatedMlp, RmsNorm, fuse_modules
from deserve_node.shard.linear import PackedLinear
from deserve_node.shard.loading import load_shard


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in model.modules())


@pytest.mark.parametrize(
    ("name", "norms_a_layer"), [("llama", 2), ("qwen2", 2), ("mistral", 2), ("smollm3", 2), ("qwen3", 4)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_of_llamas_modules_are_fused_and_compute_the_same(
    name: str, norms_a_layer: int, dtype: torch.dtype
) -> None:
    model = build(name).to(dtype)
    tokens = torch.arange(40).view(1, -1)
    expected = model(tokens).logits
    fuse_modules(model)
    assert count(model, RmsNorm) == norms_a_layer * LAYERS + 1
    assert count(model, GatedMlp) == LAYERS
    assert not any(type(module).__name__.endswith(("RMSNorm", "MLP")) for module in model.modules())
    exact = dtype is torch.float32
    torch.testing.assert_close(
        model(tokens).logits, expected, rtol=1e-5 if exact else 0.02, atol=1e-6 if exact else 0.005
    )


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3_text"])
def test_gemma_computes_otherwise_and_is_left_alone(name: str) -> None:
    model = build(name, head_dim=8)
    before = [type(module) for module in model.modules()]
    fuse_modules(model)
    assert [type(module) for module in model.modules()] == before


def test_another_activation_leaves_the_mlp_and_not_the_norms() -> None:
    model = build("llama", hidden_act="gelu")
    fuse_modules(model)
    assert count(model, GatedMlp) == 0
    assert count(model, LlamaMLP) == LAYERS
    assert count(model, LlamaRMSNorm) == 0


def test_an_mlp_whose_gate_has_no_kernel_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    half = build("llama").to(torch.float16)
    fuse_modules(half)
    assert count(half, GatedMlp) == 0
    monkeypatch.setattr(fused, "is_compiled", lambda dtype: False)
    model = build("llama")
    fuse_modules(model)
    assert (count(model, GatedMlp), count(model, RmsNorm)) == (0, 2 * LAYERS + 1)


def test_biases_of_an_mlp_are_kept() -> None:
    model = build("llama", mlp_bias=True)
    for parameter in model.model.layers[1].mlp.parameters():
        parameter.normal_()
    rows = torch.randn(3, 32)
    expected = model.model.layers[1].mlp(rows)
    fuse_modules(model)
    torch.testing.assert_close(model.model.layers[1].mlp(rows), expected)


def test_a_forward_of_a_subclass_or_put_on_the_module_itself_is_kept() -> None:
    class Halved(LlamaRMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) / 2

    own = LlamaRMSNorm(8)
    own.forward = lambda hidden_states: hidden_states
    model = nn.Sequential(Halved(8), own)
    fuse_modules(model)
    assert [type(module) for module in model] == [Halved, LlamaRMSNorm]


def test_a_loaded_shard_runs_the_fused_modules_over_packed_weights(save_llama: Any, tmp_path: Path) -> None:
    save_llama()
    shard = load_shard(resolve(str(tmp_path)), 1, 4, dtype=torch.float32, device=torch.device("cpu"))
    assert count(shard._model, RmsNorm) == 3 * 2 + 1
    mlps = [module for module in shard._model.modules() if isinstance(module, GatedMlp)]
    assert len(mlps) == 3
    for mlp in mlps:
        assert [type(child) for child in mlp.children()] == [PackedLinear] * 3
