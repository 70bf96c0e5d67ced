"""Which tokens of a row may be drawn: min-p, then top-k, then top-p, all on the logits after temperature."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deserve_network.ring_messages import Sampling

__all__ = ["candidates"]

Logits = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]

# Mass below the likeliest token, as differences of logits: top-p sorts only what lies above the first that suffices.
_TOP_P_CUTS = (4.0, 8.0, 12.0, math.inf)


def candidates(logits: Logits, sampling: Sampling) -> TokenIds | None:
    """Ids in ascending order of the tokens that remain, or None where all do; logits fp32 [V], their maximum 0.

    min-p keeps probabilities of at least min_p times the largest. top-k keeps the k largest logits and what ties with
    the last. top-p keeps the smallest set of largest probabilities, renormalised after the other two, that reaches
    top_p; equal logits count in order of their ids.
    """
    kept: TokenIds | None = None
    if sampling.min_p > 0:
        kept = np.flatnonzero(logits >= math.log(sampling.min_p))
    if 0 < sampling.top_k < (logits.size if kept is None else kept.size):
        values = logits if kept is None else logits[kept]
        lowest = np.partition(values, values.size - sampling.top_k)[values.size - sampling.top_k]
        among = np.flatnonzero(values >= lowest)
        kept = among if kept is None else kept[among]
    if sampling.top_p < 1:
        kept = _nucleus(logits, kept, sampling.top_p)
    return kept


def _nucleus(logits: Logits, kept: TokenIds | None, top_p: float) -> TokenIds:
    values = logits if kept is None else logits[kept]
    mass = np.exp(values)
    wanted = top_p * float(mass.sum(dtype=np.float64))
    for cut in _TOP_P_CUTS:
        likely = np.flatnonzero(values >= -cut)
        order = likely[np.argsort(-values[likely], kind="stable")]
        before = np.cumsum(mass[order], dtype=np.float64) - mass[order]
        if before.size == values.size or float(before[-1] + mass[order[-1]]) >= wanted:
            break
    chosen = np.sort(order[(before < wanted) | (np.arange(order.size) == 0)])
    return chosen if kept is None else kept[chosen]
