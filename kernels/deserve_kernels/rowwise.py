"""What a decoder layer does to each token by itself: RMS norm, rotary positions, and the SiLU gate of an MLP.

In C++ on the CPU for fp32 and bf16, where a token's bits depend on no other token and on no number of threads; else the
torch reference. Rounding is that of transformers' Llama.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["is_compiled", "rms_norm", "rotate", "silu_mul"]

_COMPILED = (torch.float32, torch.bfloat16)


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether tensors of this dtype on the CPU go through the C++ kernels, and not through the torch references."""
    return dtype in _COMPILED and native_library() is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., width] over the root of its mean square plus `eps`, in fp32, rounded to x's dtype, times weight [width].

    Returns [..., width] in the dtype of that product. Raises `ArgumentError` for a weight of another width.
    """
    width = x.shape[-1]
    if weight.shape != (width,):
        raise ArgumentError(f"weight: shape {tuple(weight.shape)} where ({width},) is expected")
    library = _library_for(x, weight)
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


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q [heads, T, dim] and k [kv_heads, T, dim] with each half of a head turned against the other.

    cos and sin [T, dim] of the angles; dtypes promote as in torch. In memory the heads of a token come to lie side by
    side, as the matrix products wrote them and attention reads them. Raises `ArgumentError` for an odd dim and for
    shapes that do not fit.
    """
    if q.ndim != 3 or q.shape[2] % 2:
        raise ArgumentError(f"q: shape {tuple(q.shape)} where [heads, T, even dim] is expected")
    _, tokens, dim = q.shape
    if k.ndim != 3 or k.shape[1:] != q.shape[1:]:
        raise ArgumentError(f"k: shape {tuple(k.shape)} where [kv_heads, {tokens}, {dim}] is expected")
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape != q.shape[1:]:
            raise ArgumentError(f"{name}: shape {tuple(table.shape)} where [{tokens}, {dim}] is expected")
    library = _library_for(q, k, cos, sin)
    if library is None:
        return reference.rotate(q, k, cos, sin)
    q = q if q.stride(2) == 1 else q.contiguous()
    k = k if k.stride(2) == 1 else k.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    heads, kv_heads = q.shape[0], k.shape[0]
    q_out = torch.empty(tokens, heads, dim, dtype=q.dtype)
    k_out = torch.empty(tokens, kv_heads, dim, dtype=k.dtype)
    library.deserve_rotate(
        q.data_ptr(),
        q.stride(1),
        q.stride(0),
        q_out.data_ptr(),
        heads,
        k.data_ptr(),
        k.stride(1),
        k.stride(0),
        k_out.data_ptr(),
        kv_heads,
        cos.data_ptr(),
        sin.data_ptr(),
        tokens,
        dim,
        q.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return q_out.transpose(0, 1), k_out.transpose(0, 1)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of one shape and dtype, any of both; each of the two operations is rounded to the dtype.

    Raises `ArgumentError` where gate and up differ.
    """
    if up.shape != gate.shape or up.dtype != gate.dtype:
        raise ArgumentError(
            f"up: {up.dtype} {tuple(up.shape)} where the gate's {gate.dtype} {tuple(gate.shape)} is expected"
        )
    library = _library_for(gate, up)
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


def _library_for(first: Tensor, *others: Tensor) -> ctypes.CDLL | None:
    """None where the reference has to do: elsewhere than on the CPU, for other dtypes, and for several at once."""
    one_dtype = all(other.dtype is first.dtype for other in others)
    return native_library() if first.device.type == "cpu" and one_dtype and first.dtype in _COMPILED else None
