"""Fingerprints of hidden states: 16 random projections of each token, small enough to keep and to sign.

The projections of two computations of one token differ by what the computations differ by (Johnson and Lindenstrauss
1984; signs instead of normal numbers: Achlioptas 2003), so whoever replays a token can measure how far off the one that
was committed to is. The seed has to follow from what the outputs were committed to as: then the matrix is fixed only
once they are, and nobody can aim outputs at its null space (Fiat and Shamir 1986). What difference is too large is not
decided here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from deserve_kernels.errors import ArgumentError

__all__ = ["PROJECTIONS", "SEED_BYTES", "project", "signs"]

PROJECTIONS = 16
SEED_BYTES = 32

_SIGNS = b"deserve-net/fingerprint/signs/1"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def signs(seed: bytes, hidden: int) -> Tensor:
    """The matrix of `seed` without its scale: float32 [hidden, 16] of 1 and -1 on the CPU.

    Bit i (from the lowest) of byte b of BLAKE3's extended output under the key `seed` is the sign of entry
    [b // 2, b % 2 * 8 + i]: 1 for a set bit. Raises `ArgumentError` for a seed of another length than 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise ArgumentError(f"seed: {len(seed)} bytes where {SEED_BYTES} are expected")
    return torch.from_numpy(_signs(seed, hidden).copy())


def project(hidden: Tensor, seed: bytes) -> Tensor:
    """`hidden` [tokens, hidden] in fp32, bf16 or fp16 times signs / sqrt(hidden): float32 [tokens, 16].

    Computed where `hidden` is and left there; sums are in fp32, so the same tensor gives the same bits on one device.
    Raises `ArgumentError` for another shape or dtype and for a seed of another length than 32 bytes.
    """
    if hidden.ndim != 2 or hidden.dtype not in _FLOATS or hidden.shape[1] == 0:
        raise ArgumentError(
            f"hidden: {hidden.dtype} {tuple(hidden.shape)} where [tokens, hidden] in float32, bfloat16 or float16 is "
            "expected"
        )
    width = hidden.shape[1]
    matrix = signs(seed, width).to(hidden.device)
    projected: Tensor = (hidden.detach().float() @ matrix) * width**-0.5
    return projected


# An audit asks for a chunk's matrix once a piece of the row, and audits of one chunk come together.
@lru_cache(maxsize=64)
def _signs(seed: bytes, hidden: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    drawn = blake3(_SIGNS, key=seed).digest(length=hidden * PROJECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8), bitorder="little").reshape(hidden, PROJECTIONS)
    return bits.astype(np.float32) * 2 - 1
