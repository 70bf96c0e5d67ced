"""Fingerprints of hidden states: 16 random projections of each token, small enough to keep and to sign.

The projections of two computations of one token differ by what the computations differ by (Johnson and Lindenstrauss
1984; signs instead of normal numbers: Achlioptas 2003), so whoever replays a token can measure how far off the one that
was committed to is. The matrix follows from the outputs' own hash (`step_seed`): it is fixed only once they are, and
nobody can aim outputs at its null space (Fiat and Shamir 1986). What difference is too large is not decided here.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from deserve_kernels.errors import ArgumentError

__all__ = ["PROJECTIONS", "SEED_BYTES", "outputs_hash", "project", "signs", "step_seed"]

PROJECTIONS = 16
SEED_BYTES = 32
"""Of a seed and of a hash: BLAKE3's."""

_STEP = b"deserve-net/fingerprint/step/1"
_SIGNS = b"deserve-net/fingerprint/signs/1"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def outputs_hash(hidden: Tensor) -> bytes:
    """BLAKE3 of the bytes of `hidden` [tokens, hidden], row by row, in the dtype in which they were computed."""
    return blake3(hidden.detach().cpu().contiguous().view(torch.uint8).numpy().data).digest()


def step_seed(outputs: bytes, *, ring: str, epoch: int, stage: int, step: int) -> bytes:
    """The seed of one step's matrix, 32 bytes, from the hash of all outputs of that step and from which step it is.

    Raises `ArgumentError` for a hash of another length and for numbers outside uint64.
    """
    if len(outputs) != SEED_BYTES:
        raise ArgumentError(f"outputs: a hash of {len(outputs)} bytes where {SEED_BYTES} are expected")
    name = ring.encode()
    try:
        place = struct.pack("<IQQQ", len(name), epoch, stage, step)
    except struct.error as error:
        raise ArgumentError(f"epoch {epoch}, stage {stage}, step {step}: outside uint64") from error
    return blake3(_STEP + place + name + outputs).digest()


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


# A row's audit asks for the same few steps again and again; a step's own matrix is asked for once a row.
@lru_cache(maxsize=64)
def _signs(seed: bytes, hidden: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    drawn = blake3(_SIGNS, key=seed).digest(length=hidden * PROJECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8), bitorder="little").reshape(hidden, PROJECTIONS)
    return bits.astype(np.float32) * 2 - 1
