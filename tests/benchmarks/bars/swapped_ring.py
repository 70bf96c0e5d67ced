"""Bar h: a ring whose devices hold an eighth of the KV of the rows in flight, beside one that holds them all.

The rest is in host memory and copied at a bounded rate, one at which a microbatch's copy takes no longer than a step
(formula 2 of DeServe's section 3). Once, both rings also answer the same rows, and tokens are compared one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from bars.group import Settings
from bars.journal import Journal
from bars.rounds import Contestant, Experiment, Measure
from bars.rows import Requirement, Row
from bars.steady import Rows, measure_steady
from bars.workload import MODELS, Model, make_bench_model, make_prompts, request_body
from deserve_models import resolve
from deserve_models.inspection import inspect
from deserve_testnet.config import TestnetConfig
from deserve_testnet.run import run_batch
from deserve_testnet.testnet import Testnet

__all__ = ["experiments", "rows"]

_ALL, _EIGHTH = "all on the device", "an eighth on the device"
_STAGES, _PROMPT, _NEW = 4, 32, 64
_LATENCY_MS = 256
"""Without latency a ring needs no more rows than an eighth of the KV holds, and the planner swaps none."""
_COPY_RATE = "2GB"
_COMPARED_TOKENS = 24


@dataclass(frozen=True)
class _Size:
    """Rows in flight, and a rate that four processes do not exceed."""

    rows: int
    most_tokens_per_s: float

    @property
    def compared(self) -> int:
        """Rows whose tokens are compared: four times what an eighth of the KV holds."""
        return self.rows // 2


_SIZES = {"bench": _Size(3072, 4000.0), "SmolLM2": _Size(1024, 1000.0)}
"""A microbatch can use half of the device at most: a sixteenth of these rows still fills the products of a step."""


def experiments(settings: Settings) -> list[Experiment]:
    make_bench_model()
    return [Experiment(_name(model.name), _contestants(model, settings), settings.rounds) for model in MODELS]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for model in MODELS:
        name = _name(model.name)
        over = Requirement("h", f"{model.name}: an eighth of KV on the device / all", ">=", 0.95, "x")
        found.append(Row.of(over, journal.ratios(name, _EIGHTH, _ALL)))
        compared = f"{model.name}: rows of {_SIZES[model.name].compared} with other tokens"
        found.append(Row.of(Requirement("h", compared, "<=", 0), _different(journal, name)))
        for contestant in (_ALL, _EIGHTH):
            rate = Requirement("h", f"{model.name}: {contestant}", "report", unit=" tok/s")
            found.append(Row.of(rate, journal.values(name, contestant, "tokens_per_s")))
    return found


def _name(model: str) -> str:
    return f"h {model}"


def _different(journal: Journal, experiment: str) -> list[float]:
    digests = [journal.rounds(experiment, name).get(0, {}).get("row_tokens") for name in (_ALL, _EIGHTH)]
    if None in digests:
        return []
    return [float(sum(a != b for a, b in zip(*digests, strict=True)))]


def _contestants(model: Model, settings: Settings) -> tuple[Contestant, ...]:
    size = _SIZES[model.name]
    summary = inspect(resolve(model.source), dtype="float32")
    # Of one stage, on average: layers may not divide evenly.
    token_bytes = summary.num_layers * summary.kv_bytes_per_token_layer // _STAGES
    needed_bytes = size.rows * (_PROMPT + _NEW // 2) * token_bytes
    whole = TestnetConfig(model=model.source, nodes=_STAGES, latency_ms=_LATENCY_MS, memory="2GiB", max_rows=size.rows)
    limited = replace(
        whole,
        kv_memory=str(needed_bytes // 8),
        host_memory=str(2 * needed_bytes),
        copy_rate=_COPY_RATE,
    )
    return (_contestant(_ALL, whole, size, settings), _contestant(_EIGHTH, limited, size, settings))


def _contestant(name: str, config: TestnetConfig, size: _Size, settings: Settings) -> Contestant:
    workload = Rows(64 if settings.quick else size.rows, _PROMPT, _NEW, size.most_tokens_per_s)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Measure]:
        answers: list[str] = []

        async def measure() -> dict[str, Any]:
            first = not answers
            if first:
                answers[:] = await _answers(net, size.compared)
            window_s, settle_s = (3, 0) if settings.quick else (20, 10)
            window = await measure_steady(net, workload, window_s=window_s, settle_s=settle_s)
            return {**window.figures(), **({"row_tokens": answers} if first else {})}

        async with Testnet(config) as net:
            yield measure

    return Contestant(name, opened)


async def _answers(net: Testnet, compared: int) -> list[str]:
    """A digest of the tokens of every row, in the order of the rows."""
    source, output = net.directory / "compared.jsonl", net.directory / "answers.jsonl"
    with source.open("w") as lines:
        for number, prompt in enumerate(make_prompts(compared)):
            body = request_body(net.config.model, prompt, _COMPARED_TOKENS)
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
            lines.write(json.dumps(line) + "\n")
    await run_batch(net, source, output)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    tokens = [line["response"]["body"]["choices"][0]["token_ids"] for line in found]
    return [hashlib.blake2b(json.dumps(ids).encode(), digest_size=8).hexdigest() for ids in tokens]
