"""Tensors as raw bytes, for frames: row-major, native little-endian, no header of their own."""

from __future__ import annotations

import sys

import numpy as np
import torch

from deserve_node.errors import NodeError

__all__ = ["DTYPES", "PayloadError", "from_bytes", "to_bytes"]

assert sys.byteorder == "little", "frames are little-endian"

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PayloadError(NodeError):
    """A frame's payload does not have the size that its header declares."""


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on any device; no copy where it is contiguous on the CPU."""
    flat = tensor.detach().to("cpu").contiguous().view(torch.uint8).numpy()
    return flat.data.cast("B")


def from_bytes(payload: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor [rows, columns] of its own memory from `payload`. Raises `PayloadError`."""
    expected = shape[0] * shape[1] * dtype.itemsize
    if len(payload) != expected:
        raise PayloadError(f"payload of {len(payload)} bytes, expected {expected} for {shape} in {dtype}")
    raw = torch.empty(expected, dtype=torch.uint8)
    raw.numpy()[:] = np.frombuffer(payload, dtype=np.uint8)
    return raw.view(dtype).view(shape)
