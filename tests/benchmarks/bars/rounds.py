"""Contestants in turn, round after round: what makes the machine faster or slower for a while falls on all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bars.journal import Journal, Measurement

__all__ = ["Contestant", "Experiment", "Measure", "run"]

Measure = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Contestant:
    """`open` gets it ready (a model is loaded, a network started) and yields what measures it once."""

    name: str
    open: Callable[[], AbstractAsyncContextManager[Measure]]


@dataclass(frozen=True)
class Experiment:
    """`kept` contestants stay ready from their first turn to the end; else each is opened for its turn only, because
    the machine has no room for all of them or they would disturb one another."""

    name: str
    contestants: tuple[Contestant, ...]
    rounds: int
    kept: bool = True


async def run(experiment: Experiment, journal: Journal, say: Callable[[str], None]) -> None:
    """Measure what the journal does not have yet. Contestants that have every round are not even opened."""
    async with AsyncExitStack() as stack:
        ready: dict[str, Measure] = {}
        for number in range(experiment.rounds):
            for contestant in experiment.contestants:
                name = contestant.name
                if journal.has(experiment.name, name, number):
                    continue
                if not experiment.kept:
                    async with contestant.open() as measure:
                        figures = await measure()
                else:
                    if name not in ready:
                        ready[name] = await stack.enter_async_context(contestant.open())
                    figures = await ready[name]()
                journal.add(Measurement(experiment.name, name, number, figures))
                say(f"{experiment.name}, round {number + 1} of {experiment.rounds}, {name}: {_words(figures)}")


def _words(figures: dict[str, Any]) -> str:
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
