"""What a decoder layer does to each token by itself: RMS norm, and SiLU of the gate times the other product.

In C++ on the CPU for fp32 and bf16, where a token's bits depend on no other token and on no number of threads; else the
torch reference. Rounding is that of transformers' Llama.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["rms_norm", "silu_mul"]

_COMPILED = (torch.float32, torch.bfloat16)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., width] over the root of its mean square plus `eps`, in fp32, rounded to x's dtype, times weight [width].

    Returns [..., width] in the dtype of that product. Raises `ArgumentError` for a weight of another width.
    """
    width = x.shape[-1]
    if weight.shape != (width,):
        raise ArgumentError(f"weight: shape {tuple(weight.shape)} where ({width},) is expected")
    library = native_library() if _compiled(x, weight) else None
    if library is None:
        return reference.rms_norm(x, weight, eps)
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    library.deserve_rms_norm(
        x.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        x.numel() // width if width else 0,
        width,
        eps,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of one shape and dtype, any of both; each of the two operations is rounded to the dtype.

    Raises `ArgumentError` where gate and up differ.
    """
    if up.shape != gate.shape or up.dtype != gate.dtype:
        raise ArgumentError(
            f"up: {up.dtype} {tuple(up.shape)} where the gate's {gate.dtype} {tuple(gate.shape)} is expected"
        )
    library = native_library() if _compiled(gate, up) else None
    if library is None:
        return reference.silu_mul(gate, up)
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    library.deserve_silu_mul(
        gate.data_ptr(),
        up.data_ptr(),
        out.data_ptr(),
        gate.numel(),
        gate.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def _compiled(first: Tensor, second: Tensor) -> bool:
    return first.device.type == "cpu" and first.dtype in _COMPILED and second.dtype is first.dtype
