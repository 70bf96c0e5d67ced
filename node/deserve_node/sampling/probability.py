"""Log-probabilities of a row as the model gave them, before temperature, penalties and truncation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deserve_network.ring_messages import TokenLogprob

__all__ = ["logprobs"]


def logprobs(logits: npt.NDArray[np.float32], token: int, top: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """The log-probability of `token` and the `top` likeliest tokens, likeliest first, equal ones by id; logits [V]."""
    peak = logits.max()
    normaliser = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    if top == 0:
        return float(logits[token]) - normaliser, ()
    top = min(top, logits.size)
    lowest = np.partition(logits, logits.size - top)[logits.size - top]
    likely = np.flatnonzero(logits >= lowest)
    likely = likely[np.argsort(-logits[likely], kind="stable")[:top]]
    listed = tuple(TokenLogprob(int(i), float(logits[i]) - normaliser) for i in likely)
    return float(logits[token]) - normaliser, listed
