"""Rotary positions of a shard on the CPU as one kernel, where the model's own code is Llama's rotation.

Attention modules call the rotation as a global function of their file. A module whose file holds Llama's gets a
subclass of its class, with a copy of `forward` that finds the kernel under that name; transformers itself is not
touched. Models that rotate pairs of neighbours or a part of each head have other code and keep it.
"""

from __future__ import annotations

import functools
import types
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, rotate_half

from deserve_kernels import rotate
from deserve_node.shard.same_code import same_code

__all__ = ["fuse_rotations"]

_NAME = apply_rotary_pos_emb.__name__


def fuse_rotations(model: nn.Module) -> None:
    """Give every attention module of `model` that rotates as Llama's does the kernel."""
    for module in model.modules():
        kind: Any = type(module)
        if "forward" not in vars(module) and _rotates_as_llama(kind.forward):
            module.__class__ = _with_kernel(kind)


@functools.cache
def _with_kernel(original: Any) -> Any:
    forward = original.forward
    names = {**forward.__globals__, _NAME: _rotate_heads}
    copy = types.FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    attributes = {"forward": copy, "__module__": original.__module__, "__qualname__": original.__qualname__}
    return type(original.__name__, (original,), attributes)


def _rotates_as_llama(forward: Any) -> bool:
    if not isinstance(forward, types.FunctionType) or _NAME not in forward.__code__.co_names:
        return False
    rotation: Any = forward.__globals__.get(_NAME)
    return same_code(rotation, apply_rotary_pos_emb) and same_code(
        rotation.__globals__.get(rotate_half.__name__), rotate_half
    )


def _rotate_heads(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """q and k [1, heads, T, dim], cos and sin [1, T, dim]; other shapes go the way of transformers."""
    if unsqueeze_dim != 1 or q.ndim != 4 or len(q) != 1 or cos.shape != (1, q.shape[2], q.shape[3]):
        rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
        return rotated
    q, k = rotate(q[0], k[0], cos[0], sin[0])
    return q.unsqueeze(0), k.unsqueeze(0)
