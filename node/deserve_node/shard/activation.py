"""Activations of a shard on the CPU, computed in pieces that one thread takes as a whole.

torch cuts a large tensor between threads at any element and finishes each part with scalar instructions, whose
exponential rounds differently from the vector ones: with three threads the SiLU of 64 rows of 2048 differs from one
thread's in a few elements, and which ones follows from the number of rows. Pieces start at whole vectors and are too
small for torch to cut. Functions that a model calls without a module of transformers' table are not reached.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS

__all__ = ["PiecewiseActivation", "split_activations"]

PIECE_ELEMENTS = 1 << 14
"""torch (2.13) cuts GELU between threads above this, the others above twice this."""

_ELEMENTWISE = {entry[0] if isinstance(entry, tuple) else entry for name, entry in ACT2CLS.items() if name != "xielu"}


class PiecewiseActivation(nn.Module):
    """An elementwise `activation`; takes any shape and gives the same, in the same dtype."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self._activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.contiguous().view(-1)
        outputs = torch.empty_like(flat)
        for start in range(0, len(flat), PIECE_ELEMENTS):
            piece = slice(start, start + PIECE_ELEMENTS)
            outputs[piece] = self._activation(flat[piece])
        return outputs.view(inputs.shape)


def split_activations(model: nn.Module) -> None:
    """Wrap every activation module of `model` that has no weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _ELEMENTWISE and not any(True for _ in child.parameters()):
                setattr(parent, name, PiecewiseActivation(child))
