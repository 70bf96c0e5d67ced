"""The yardstick: what transformers alone would have drawn, in float32 on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TIE_MARGIN = 1e-3
"""Where the two best logits are closer than this, rounding decides and either token is right."""


def logits_of(model: Any, token_ids: Sequence[int]) -> Any:
    """float32 logits [len(token_ids), vocabulary] of one plain forward pass."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([list(token_ids)])).logits[0].float()


def ties_against_greedy(model: Any, prompt: Sequence[int], generated: Sequence[int]) -> list[int]:
    """Positions where a token differs from transformers' by a tie; AssertionError for any other difference.

    Feeding the generated tokens back says, in one pass, the same as generating anew as long as all before agree.
    """
    logits = logits_of(model, [*prompt, *generated])[len(prompt) - 1 : -1]
    ties = []
    for offset, token in enumerate(generated):
        best = int(logits[offset].argmax())
        if best != token:
            margin = float(logits[offset, best] - logits[offset, token])
            assert margin < TIE_MARGIN, f"generated token {offset} is {token}, transformers says {best} by {margin:.4f}"
            ties.append(offset)
    return ties
