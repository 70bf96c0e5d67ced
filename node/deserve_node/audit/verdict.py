"""What a replay says of a row: how far each token is off, and whether that is more than rounding does.

Two statistics of a token are held against tolerances. The error of its fingerprint is that of 16 projections, a noisy
measure of all its dimensions (chi-square with 16 degrees of freedom), so a row's mean says more than its largest. The
error of what left on the wire, where the next stage's evidence is there, takes in every dimension: it finds a single
token that is off by little more than rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deserve_kernels.fingerprints import PROJECTIONS, project
from deserve_node.audit.evidence import CommittedRow, WireOutputs

__all__ = ["Bound", "Bounds", "Judgement", "Verdict", "failure", "judge", "print_errors", "wire_errors"]

MOST_PPM = 1 << 40


@dataclass(frozen=True, slots=True)
class Bound:
    """Of an error relative to the hidden state's norm. `most`: of any token. `mean`: of the mean over `over` tokens."""

    most: float
    mean: float
    over: int

    def mean_of(self, tokens: int) -> float:
        """The bound of a mean over `tokens`: larger by the root of how many fewer they are, and the same for more."""
        return min(self.most, self.mean * math.sqrt(max(1.0, self.over / tokens)))


class Bounds(Protocol):
    """What is no more than rounding at one stage; see `deserve_node.audit.profile`."""

    @property
    def prints(self) -> Bound: ...

    @property
    def logits(self) -> float:
        """How far apart the logits of two likely tokens may have moved."""

    def wires(self, codec: str) -> Bound | None:
        """Of hidden states after `codec`; None where that was not calibrated."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One statistic of one row: `error` is what was found, `bound` what it may be, `position` where, -1 for the row."""

    what: str
    error: float
    bound: float
    position: int = -1

    @property
    def passed(self) -> bool:
        """Never for NaN."""
        return self.error <= self.bound

    def __str__(self) -> str:
        where = "over the row" if self.position < 0 else f"at position {self.position}"
        return f"{self.what} {self.error:.3g} {where}, at most {self.bound:.3g}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`position` is that of the first token that failed, -1 where none did. `error`: the largest found."""

    passed: bool
    error: float
    position: int
    reason: str
    judgements: tuple[Judgement, ...] = ()

    @property
    def error_ppm(self) -> int:
        """Millionths, bounded; a number that is not finite is as large as can be said."""
        return min(MOST_PPM, math.ceil(self.error * 1e6)) if math.isfinite(self.error) else MOST_PPM

    @classmethod
    def of(cls, judgements: tuple[Judgement, ...]) -> Verdict:
        """Passed only where all are."""
        failed = [judgement for judgement in judgements if not judgement.passed]
        errors = [judgement.error for judgement in judgements]
        largest = max(errors, default=0.0) if all(map(math.isfinite, errors)) else math.inf
        position = min((judgement.position for judgement in failed if judgement.position >= 0), default=-1)
        if failed and position < 0:
            position = 0  # a whole row fails from its beginning on
        return cls(not failed, largest, position, "; ".join(map(str, failed))[:256], judgements)


def failure(reason: str, position: int = 0) -> Verdict:
    """Of evidence that needs no replay."""
    return Verdict(False, math.inf, position, reason[:256])


def print_errors(committed: CommittedRow, outputs: Tensor) -> Tensor:
    """Of each token, how far its committed fingerprint is from that of `outputs` float32 [tokens, hidden], relative to
    the token's norm: float32 [tokens], infinite where either is not finite."""
    assert committed.prints is not None
    replayed = torch.empty(len(outputs), PROJECTIONS)
    for span in committed.spans:
        part = slice(span.start, span.start + span.count)
        replayed[part] = project(outputs[part], span.seed)
    # A projection's mean square is the mean square of the dimensions, by the matrix's scale.
    off = (committed.prints - replayed).double().pow(2).mean(dim=1)
    return _relative(off, outputs)


def wire_errors(wire: WireOutputs, outputs: Tensor) -> Tensor:
    """The same of the hidden states that left on the wire, over all dimensions."""
    return _relative((wire.hidden.double() - outputs.double()).pow(2).mean(dim=1), outputs)


def judge(errors: Tensor, bound: Bound, what: str) -> tuple[Judgement, ...]:
    """Errors [tokens] of one row against `bound`: the first token that is above it, else the largest, and the mean."""
    above = torch.nonzero(~(errors <= bound.most))
    at = int(above[0]) if len(above) else int(errors.argmax())
    return (
        Judgement(what, float(errors[at]), bound.most, at),
        Judgement(f"mean {what}", float(errors.mean()), bound.mean_of(len(errors))),
    )


def _relative(off: Tensor, outputs: Tensor) -> Tensor:
    # Padding and dead rows may be all zeros: then anything but zero is off.
    norm = outputs.double().pow(2).mean(dim=1)
    relative = (off / norm.clamp(min=1e-30)).sqrt().float()
    return torch.where(relative.isfinite(), relative, torch.inf)
