"""A stage's cost, fitted to the times of its steps and kept up to date as more come. Pure.

Least squares on relative errors, with coefficients that cannot be negative: a step of 5 ms that is off by 1 ms is as
wrong as one of 50 ms that is off by 10. The sums that the fit needs (5 x 5) are all that is kept, and old times fade.
What was measured before the ring began stays in the sums with a small weight, so that what steps do not tell apart (all
alike in a steady ring) keeps the proportions that were measured.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from deserve_plan.cost import StageCost, StepLoad

__all__ = ["CostFitter", "fit_cost"]

Array = NDArray[np.float64]

MEMORY_STEPS = 200
"""After so many steps the weight of a time has fallen to 1/e."""
PRIOR_STEPS = 4.0
"""What the measured prior weighs, in steps, all its loads together."""
OUTLIER = 3.0
"""A step that took so many times what was expected, or such a part of it, tells of something else than the stage: it
counts as that."""
LEAST_S = 1e-7
"""No step takes less; a time that does is no time."""
RESOLVE_STEPS = 64
"""Between two fits: one takes a millisecond, of the event loop that feeds the ring."""
PRIOR_LOADS = (
    StepLoad(1, 1, 100),
    StepLoad(64, 64, 64 * 100),
    StepLoad(64, 64, 64 * 1000),
    StepLoad(64, 0, 0, 64 * 65 // 2),
    StepLoad(256, 256, 256 * 100),
    StepLoad(256, 0, 0, 256 * 257 // 2),
    StepLoad(256, 0, 0, 256 * 4096),
)
"""Loads at which a prior is asked for its times: decodes few and many, short and long, and prompt chunks."""


class CostFitter:
    """Starts at `prior` and follows the steps that it is told of."""

    def __init__(self, prior: StageCost) -> None:
        self._granularity = prior.granularity
        self._fade = float(np.exp(-1 / MEMORY_STEPS))
        gram, target = _sums(((load, prior.step_s(load)) for load in PRIOR_LOADS), self._granularity)
        weight = PRIOR_STEPS / len(PRIOR_LOADS)
        self._prior = gram * weight, target * weight
        self._gram, self._target = np.zeros((5, 5)), np.zeros(5)
        self._cost = prior
        self._unsolved = 0

    @property
    def cost(self) -> StageCost:
        """The fit to all that was observed so far."""
        if self._unsolved:
            self._solve()
        return self._cost

    def observe(self, loads: Sequence[StepLoad], seconds: Sequence[float]) -> None:
        """Steps of `loads` took `seconds`, in this order. A time below `LEAST_S` says nothing and is left out."""
        told = [(load, took) for load, took in zip(loads, seconds, strict=True) if took >= LEAST_S and load.tokens > 0]
        for first in range(0, len(told), RESOLVE_STEPS):
            self._observe(told[first : first + RESOLVE_STEPS])

    def _observe(self, told: Sequence[tuple[StepLoad, float]]) -> None:
        features = np.array([_features(load, self._granularity) for load, _ in told])
        seconds = np.array([took for _, took in told])
        expected = features @ _values(self._cost)
        seconds = np.where(expected > 0, np.clip(seconds, expected / OUTLIER, OUTLIER * expected), seconds)
        rows = features / seconds[:, None]
        weights = self._fade ** np.arange(len(told) - 1, -1, -1)
        self._gram = self._gram * self._fade ** len(told) + rows.T @ (rows * weights[:, None])
        self._target = self._target * self._fade ** len(told) + weights @ rows
        self._unsolved += len(told)
        if self._unsolved >= RESOLVE_STEPS:
            self._solve()

    def _solve(self) -> None:
        gram, target = self._prior[0] + self._gram, self._prior[1] + self._target
        self._cost = _cost(_nonnegative(gram, target), self._granularity)
        self._unsolved = 0


def fit_cost(observations: Iterable[tuple[StepLoad, float]], granularity: int) -> StageCost:
    """The cost that fits all of `observations` (load, seconds) best, each counting alike.

    Raises `ValueError` where there is none with a positive time.
    """
    told = [(load, seconds) for load, seconds in observations if seconds >= LEAST_S]
    if not told:
        raise ValueError("no step with a positive time to fit a cost to")
    return _cost(_nonnegative(*_sums(told, granularity)), granularity)


def _features(load: StepLoad, granularity: int) -> tuple[float, ...]:
    tokens = -(-load.tokens // granularity) * granularity
    return 1.0, tokens, load.wanted, load.context, load.pairs


def _values(cost: StageCost) -> Array:
    return np.array([cost.fixed_s, cost.token_s, cost.wanted_s, cost.context_s, cost.pair_s])


def _sums(observations: Iterable[tuple[StepLoad, float]], granularity: int) -> tuple[Array, Array]:
    gram, target = np.zeros((5, 5)), np.zeros(5)
    for load, seconds in observations:
        if seconds >= LEAST_S:
            row = np.array(_features(load, granularity)) / seconds
            gram += np.outer(row, row)
            target += row
    return gram, target


def _nonnegative(gram: Array, target: Array) -> Array:
    """The x >= 0 that minimises x'Gx - 2 t'x. Every subset of coefficients is tried: there are 31."""
    scale = np.sqrt(np.where(np.diag(gram) > 0, np.diag(gram), 1.0))
    # A trace of ridge decides what the observations do not: it takes the smaller coefficients.
    scaled = gram / np.outer(scale, scale) + 1e-9 * np.eye(len(target))
    wanted = target / scale
    best, best_value = np.zeros(len(target)), 0.0
    for count in range(1, len(target) + 1):
        for chosen in itertools.combinations(range(len(target)), count):
            picked = list(chosen)
            part = np.linalg.solve(scaled[np.ix_(picked, picked)], wanted[picked])
            value = -float(wanted[picked] @ part)
            if part.min() >= 0 and value < best_value:
                best, best_value = np.zeros(len(target)), value
                best[picked] = part
    return best / scale


def _cost(values: Array, granularity: int) -> StageCost:
    fixed, token, wanted, context, pair = (float(value) for value in values)
    return dataclasses.replace(StageCost(fixed, token, wanted, context, pair), granularity=granularity)
