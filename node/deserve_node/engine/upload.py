"""Tensors on their way from the host to the device that computes, without waiting for it.

A copy from ordinary memory waits for all that is queued ahead of it on its stream, so that the device stands still
until the next step is queued. A copy from pinned memory does not. That memory is torch's: it gives none out again
before the copies from it are done, so nobody has to keep the source alive.
"""

from __future__ import annotations

import torch

__all__ = ["uploaded"]


def uploaded(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`, in the order of the current stream; the tensor itself where it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
