"""Attention that rotates as Llama's does runs the kernel, in that model only; other rotations are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import LAYERS, build
from torch import nn
from transformers.models.llama import modeling_llama

from deserve_models import resolve
from deserve_node.shard import rotary
from deserve_node.shard.loading import load_shard
from deserve_node.shard.rotary import fuse_rotations


@pytest.fixture
def rotations(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the queries that reached the kernel."""
    seen: list[torch.Size] = []
    kernel = rotary.rotate

    def count(q: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(q.shape)
        return kernel(q, *others)

    monkeypatch.setattr(rotary, "rotate", count)
    return seen


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_of_llamas_rotation_run_the_kernel_with_the_same_bits(
    name: str, dtype: torch.dtype, rotations: list[torch.Size]
) -> None:
    model = build(name, head_dim=8).to(dtype)
    tokens = torch.arange(40).view(1, -1)
    expected = model(tokens).logits
    fuse_rotations(model)
    assert torch.equal(model(tokens).logits, expected)
    assert rotations == [(4, 40, 8)] * LAYERS


def test_other_models_of_the_process_keep_their_rotation(rotations: list[torch.Size]) -> None:
    fused, plain = build("llama"), build("llama")
    fuse_rotations(fused)
    plain(torch.arange(8).view(1, -1))
    assert not rotations


@pytest.mark.parametrize("name", ["cohere2", "glm4", "gpt_neox"])
def test_other_rotations_are_left_alone(name: str) -> None:
    model = build(name, **({"head_dim": 8} if name != "gpt_neox" else {}))
    before = [type(module) for module in model.modules()]
    fuse_rotations(model)
    assert [type(module) for module in model.modules()] == before


def test_several_sequences_side_by_side_go_the_way_of_transformers(rotations: list[torch.Size]) -> None:
    model = build("llama")
    tokens = torch.arange(40).view(2, -1)
    expected = model(tokens).logits
    fuse_rotations(model)
    assert torch.equal(model(tokens).logits, expected)
    assert not rotations


def test_a_forward_put_on_the_module_itself_is_kept() -> None:
    model = build("llama")
    module: nn.Module = model.model.layers[0].self_attn
    module.forward = module.forward
    fuse_rotations(model)
    assert type(module) is modeling_llama.LlamaAttention


def test_a_loaded_shard_rotates_by_the_kernel(save_llama: Any, tmp_path: Path, rotations: list[torch.Size]) -> None:
    save_llama()
    load_shard(resolve(str(tmp_path)), 1, 4, dtype=torch.float32, device=torch.device("cpu"))
    # The check that rows are independent runs two batches of 16 tokens.
    assert rotations == [(4, 16, 8)] * 3 * 2
