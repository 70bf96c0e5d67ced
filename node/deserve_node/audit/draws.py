"""Whether the tail drew the tokens that the row's seed and the logits call for.

A draw is argmax(logits / temperature + noise), with noise that everybody can compute, so the drawn token's score must
be the best but for what rounding moved. Where truncation leaves tokens out, one near its edge may count as in or out:
the drawn token has the benefit of the doubt, and no other token near the edge is held against it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deserve_kernels.noise import gumbel_of
from deserve_network.audit_messages import TailEvidence
from deserve_network.ring_messages import Sampling
from deserve_node.audit.verdict import Judgement
from deserve_node.sampler import GREEDY_TEMPERATURE
from deserve_node.sampling.adjustment import adjusted, adjusts
from deserve_node.sampling.truncation import candidates

__all__ = ["judge_draws", "shortfall"]

Logits = npt.NDArray[np.float32]


def judge_draws(tail: TailEvidence, pieces: Iterator[Tensor], tolerance: float) -> Judgement:
    """The first draw that falls short by more than `tolerance`, else the one that falls shortest.

    `pieces`: logits float32 [n, vocabulary] of the positions before each drawn token, in order.
    """
    first = len(tail.prompt) + len(tail.generated)
    worst = Judgement("shortfall of a draw", 0.0, tolerance, first)
    index = 0
    for piece in pieces:
        for logits in piece.numpy():
            before = (*tail.generated, *tail.drawn[:index])
            short = shortfall(
                logits, tail.sampling, first + index, tail.drawn[index], tail.prompt, before, tolerance=tolerance
            )
            if not short <= worst.error:
                worst = Judgement(worst.what, short, tolerance, first + index)
            if not short <= tolerance:
                return worst
            index += 1
    return worst


def shortfall(
    logits: Logits,
    sampling: Sampling,
    position: int,
    token: int,
    prompt: tuple[int, ...],
    generated: tuple[int, ...],
    *,
    tolerance: float,
) -> float:
    """By how much `token`'s logit is too low for it to be drawn at `position`, in units of logits float32 [V].

    Zero for the very token that these logits call for, infinite for one that cannot be drawn at all or logits that are
    not finite. `tolerance`: how far from an edge of truncation a token counts as near.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    if adjusts(sampling, len(generated)):
        logits = adjusted(logits, sampling, prompt, generated)
    peak = float(logits.max())
    if not np.isfinite(peak) or not np.isfinite(logits[token]):
        return float("inf")
    if sampling.temperature < GREEDY_TEMPERATURE:
        return peak - float(logits[token])
    scaled = (logits - np.float32(peak)) / np.float32(sampling.temperature)
    kept = candidates(scaled, sampling)
    short = 0.0
    if kept is not None:
        edge = float(scaled[kept].min())
        short = max(0.0, edge - float(scaled[token])) * sampling.temperature
        certain = kept[scaled[kept] >= edge + tolerance / sampling.temperature]
        # A nucleus of one token, or of tokens that nearly tie, has nothing but an edge.
        kept = np.union1d(certain, [token])
    else:
        kept = np.arange(len(scaled))
    noise = gumbel_of(torch.tensor([sampling.seed]), torch.tensor([position]), torch.from_numpy(kept)[None])[0].numpy()
    scores = scaled[kept] + noise
    own = float(scores[np.searchsorted(kept, token)])
    return max(short, (float(scores.max()) - own) * sampling.temperature)
