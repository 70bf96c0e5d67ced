"""Linear layers of a shard on the CPU, their weights packed once for oneDNN.

Measured on an AMD EPYC (Zen 5), one thread, 64 rows by 512 x 1376 in fp32: 102 GFLOP/s through `nn.Linear` (MKL), 250
through oneDNN with a packed weight. The result is also more regular: a row has the same bits for every number of rows
from 2 on, and for every number of threads. A weight that the embedding shares, or one that makes up much of its stage,
stays as it is, since packing holds it twice for good or for a moment; oneDNN then packs on the way, with the same bits
(191 against 227 GFLOP/s for 64 rows by 512 x 8192).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PackedLinear", "pack_linears", "product"]

LARGEST_PART = 10
SMALL_BYTES = 8 << 20


class PackedLinear(nn.Module):
    """`nn.Linear` for inference: takes [..., in_features], gives [..., out_features] in the same dtype."""

    def __init__(self, linear: nn.Linear, *, pack: bool) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.dtype = linear.weight.dtype
        weight = linear.weight.detach()
        # Plain attributes: a packed weight is opaque, nothing may move, cast or count it as a parameter.
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None) if pack else weight
        self._bias: Tensor | None = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise.default(inputs, self._weight, self._bias, "none", [], "")
        return outputs


def pack_linears(model: nn.Module, tensor_bytes: int) -> None:
    """Replace every `nn.Linear` of `model` that oneDNN serves; `tensor_bytes` is what all its tensors take.

    One weight at a time is held twice, at most a tenth of `tensor_bytes` (or little in absolute terms).
    """
    largest = max(tensor_bytes // LARGEST_PART, SMALL_BYTES)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    # No list of the modules to replace: it would keep all their weights until the last is packed.
    for parent in [module for module in model.modules() if type(module) is not nn.Linear]:
        for name in [name for name, child in parent.named_children() if type(child) is nn.Linear]:
            linear = parent.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if _served(linear.weight):
                shared = id(linear.weight) in embeddings
                setattr(parent, name, PackedLinear(linear, pack=not shared and linear.weight.nbytes <= largest))
                del linear
                _return_freed_memory()


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`inputs` [n, in] by a plain `weight` [out, in], maybe a transposed view: oneDNN's as above where it serves."""
    if not _served(weight):
        return nn.functional.linear(inputs, weight, bias)
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise.default(inputs, weight, bias, "none", [], "")
    return outputs


def _return_freed_memory() -> None:
    """glibc keeps the freed weight for its next caller, but a packed weight is a little larger and does not fit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _served(weight: Tensor) -> bool:
    operators: Any = torch.ops.mkldnn
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype is torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
