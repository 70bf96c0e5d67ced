"""Exact confidence intervals of a probability from successes among trials (Clopper and Pearson 1934)."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["at_least", "at_most"]


def at_least(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided lower bound of the probability; 0 where nothing succeeded or nothing was tried."""
    if successes == 0:
        return 0.0
    return _root(lambda p: 1 - _at_most(successes - 1, trials, p) - (1 - confidence))


def at_most(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound; 3 / trials, nearly, where nothing succeeded (the rule of three)."""
    if successes >= trials:
        return 1.0
    return _root(lambda p: (1 - confidence) - _at_most(successes, trials, p))


def _at_most(successes: int, trials: int, p: float) -> float:
    """P(X <= successes) of a binomial."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or successes >= trials else 0.0
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(p) + (trials - k) * math.log1p(-p)
        for k in range(successes + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
