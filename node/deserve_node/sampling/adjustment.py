"""Changes to a row's logits before temperature: suppressed stop tokens, bias, penalties, in vLLM's order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deserve_network.ring_messages import Sampling

__all__ = ["adjusted", "adjusts"]

Logits = npt.NDArray[np.float32]


def adjusts(sampling: Sampling, generated: int) -> bool:
    """Whether `adjusted` would change anything after `generated` tokens."""
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or (sampling.stop_token_ids and generated < sampling.min_tokens)
    )


def adjusted(logits: Logits, sampling: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> Logits:
    """A changed copy of `logits` fp32 [V].

    Repetition divides positive and multiplies negative logits of what prompt or output hold (Keskar et al. 2019,
    section 4.1); frequency and presence subtract per occurrence and once for what the output holds (OpenAI).
    """
    logits = logits.copy()
    if len(generated) < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
    for bias in sampling.logit_bias:
        logits[bias.token] += np.float32(bias.bias)
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([_ids(prompt), _ids(generated)]))
        penalty = np.float32(sampling.repetition_penalty)
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    if sampling.frequency_penalty or sampling.presence_penalty:
        tokens, counts = np.unique(_ids(generated), return_counts=True)
        logits[tokens] -= np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
        logits[tokens] -= np.float32(sampling.presence_penalty)
    return logits


def _ids(tokens: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.asarray(tokens, dtype=np.int64)
