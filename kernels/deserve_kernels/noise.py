"""Gumbel noise keyed by (row seed, position, token id): argmax(logits + noise) draws from softmax(logits).

The noise is a pure function of its key, so a draw does not depend on the batch around it, on retries or on who
computes it. Neither a generator nor a state exists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["gumbel", "gumbel_of"]


def gumbel(seed: Tensor, position: Tensor, vocab: int) -> Tensor:
    """fp32 [R, vocab] of standard Gumbel noise for rows with int64 seeds [R] and positions [R].

    The 64-bit hashes underneath are the same on every device; the noise itself agrees within rounding.
    """
    _check(seed, position)
    return (
        _native(seed, position, None, vocab) if seed.device.type == "cpu" else reference.gumbel(seed, position, vocab)
    )


def gumbel_of(seed: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
    """The same noise for chosen token ids only: tokens int64 [R, N] -> fp32 [R, N]."""
    _check(seed, position)
    if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.shape[0] != seed.shape[0]:
        raise ArgumentError("tokens: int64 [rows, count] is expected")
    if seed.device.type == "cpu":
        return _native(seed, position, tokens.contiguous(), tokens.shape[1])
    return reference.gumbel_of(seed, position, tokens)


def _check(seed: Tensor, position: Tensor) -> None:
    if seed.dtype != torch.int64 or position.dtype != torch.int64 or seed.shape != position.shape or seed.ndim != 1:
        raise ArgumentError("seed and position: int64 [rows] each is expected")


def _native(seed: Tensor, position: Tensor, tokens: Tensor | None, count: int) -> Tensor:
    library = native_library()
    if library is None:
        return (
            reference.gumbel(seed, position, count) if tokens is None else reference.gumbel_of(seed, position, tokens)
        )
    seed, position = seed.contiguous(), position.contiguous()
    out = torch.empty(seed.shape[0], count)
    library.deserve_gumbel(
        seed.data_ptr(),
        position.data_ptr(),
        None if tokens is None else tokens.data_ptr(),
        out.data_ptr(),
        seed.shape[0],
        count,
        torch.get_num_threads(),
    )
    return out
