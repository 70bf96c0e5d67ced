"""Draws and scores tokens at the tail of a ring.

A draw is argmax(logits / temperature + Gumbel noise) with the noise keyed by (row seed, position, token id): what a
row gets does not depend on the batch, the ring, a retry or a restart, and rounding changes it only where two tokens
nearly tie, which inverting a cumulative distribution would not give. Rows do not see each other. Stop strings and
lengths are the head's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deserve_kernels.noise import gumbel_of
from deserve_network.ring_messages import SampledToken, Sampling
from deserve_node.errors import NodeError
from deserve_node.sampling.adjustment import adjusted, adjusts
from deserve_node.sampling.probability import logprobs
from deserve_node.sampling.truncation import candidates

__all__ = ["Sampler", "SamplingError", "SamplingRow", "ScoringRow"]

# Below this vLLM, too, takes the likeliest token: dividing by less overflows.
GREEDY_TEMPERATURE = 1e-5

Logits = npt.NDArray[np.float32]


class SamplingError(NodeError):
    """A row from which no token can be drawn; `sequence` says whose."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"sequence {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One token to draw: `position` is that of the new token, `generated` what the row has drawn before it."""

    sequence: int
    position: int
    sampling: Sampling
    prompt: Sequence[int]
    generated: Sequence[int]


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """One given token to score: `token` stands at `position`; its logits are those of the position before."""

    sequence: int
    position: int
    token: int
    top: int


class Sampler:
    """Draws tokens of a vocabulary of `vocab_size`; `device` is where the logits will be."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._every_token = torch.arange(vocab_size)[None]

    def draw(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken]:
        """One token for each of `rows` from logits fp32 [len(rows), vocab_size].

        Raises `SamplingError` where a row's logits are not finite or its parameters name tokens that do not exist.
        """
        self._check_shape(logits, len(rows))
        if logits.device.type != "cpu" and all(_is_bare(row) for row in rows):
            return self._draw_on_device(logits, rows)
        values: Logits = logits.cpu().numpy()
        _check_finite(values, rows)
        likeliest = values.argmax(axis=1)
        return [self._draw_row(row, own, int(best)) for row, own, best in zip(rows, values, likeliest, strict=True)]

    def score(self, logits: Tensor, targets: Sequence[ScoringRow]) -> list[SampledToken]:
        """The given tokens with their log-probabilities from logits fp32 [len(targets), vocab_size].

        Raises `SamplingError` where a row's logits are not finite or its token does not exist.
        """
        self._check_shape(logits, len(targets))
        values: Logits = logits.cpu().numpy()
        _check_finite(values, targets)
        scored = []
        for target, own in zip(targets, values, strict=True):
            self._check_tokens(target.sequence, "prompt", [target.token])
            logprob, top = logprobs(own, target.token, max(target.top, 0))
            scored.append(SampledToken(target.sequence, target.position, target.token, logprob, top))
        return scored

    def _draw_on_device(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken]:
        finite = logits.isfinite().all(dim=1).tolist()
        likeliest = logits.argmax(dim=1).tolist()
        for row, sound in zip(rows, finite, strict=True):
            if not sound:
                raise SamplingError(row.sequence, "logits are not finite")
        return [SampledToken(row.sequence, row.position, token) for row, token in zip(rows, likeliest, strict=True)]

    def _draw_row(self, row: SamplingRow, logits: Logits, likeliest: int) -> SampledToken:
        sampling = row.sampling
        token = likeliest
        if not _is_plain(sampling, len(row.generated)):
            token = self._choose(row, logits, likeliest)
        if sampling.logprobs < 0:
            return SampledToken(row.sequence, row.position, token)
        logprob, top = logprobs(logits, token, sampling.logprobs)
        return SampledToken(row.sequence, row.position, token, logprob, top)

    def _choose(self, row: SamplingRow, logits: Logits, likeliest: int) -> int:
        sampling = row.sampling
        if adjusts(sampling, len(row.generated)):
            self._check_tokens(row.sequence, "logit_bias", [bias.token for bias in sampling.logit_bias])
            self._check_tokens(row.sequence, "stop_token_ids", sampling.stop_token_ids)
            logits = adjusted(logits, sampling, row.prompt, row.generated)
            likeliest = int(logits.argmax())
            if not np.isfinite(logits[likeliest]):
                raise SamplingError(row.sequence, "no token is left to draw")
        if sampling.temperature < GREEDY_TEMPERATURE:
            return likeliest
        logits = (logits - logits[likeliest]) / np.float32(sampling.temperature)
        kept = candidates(logits, sampling)
        tokens = self._every_token if kept is None else torch.from_numpy(kept)[None]
        noise = gumbel_of(torch.tensor([sampling.seed]), torch.tensor([row.position]), tokens)[0].numpy()
        if kept is None:
            return int((logits + noise).argmax())
        return int(kept[(logits[kept] + noise).argmax()])

    def _check_shape(self, logits: Tensor, rows: int) -> None:
        if logits.shape != (rows, self._vocab_size) or logits.dtype != torch.float32:
            expected = (rows, self._vocab_size)
            raise ValueError(f"logits: {logits.dtype} {tuple(logits.shape)} where float32 {expected} is expected")

    def _check_tokens(self, sequence: int, where: str, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self._vocab_size:
                raise SamplingError(sequence, f"{where}: {token} is no token of a vocabulary of {self._vocab_size}")


def _is_plain(sampling: Sampling, generated: int) -> bool:
    """Whether the likeliest token is all that is asked for (logprobs apart)."""
    return sampling.temperature < GREEDY_TEMPERATURE and not adjusts(sampling, generated)


def _check_finite(logits: Logits, rows: Sequence[SamplingRow | ScoringRow]) -> None:
    # A sum is finite only if its terms are; the exact look is for the rare step in which it is not.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(logits.sum(axis=1)).all():
            return
    for row, own in zip(rows, logits, strict=True):
        if not np.isfinite(own).all():
            raise SamplingError(row.sequence, "logits are not finite")


def _is_bare(row: SamplingRow) -> bool:
    return row.sampling.logprobs < 0 and _is_plain(row.sampling, len(row.generated))
