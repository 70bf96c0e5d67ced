"""Bar h: a ring whose devices hold an eighth of the KV of the rows in flight, beside one that holds them all.

The rest is in host memory and copied at a bounded rate, one at which a microbatch's copy takes no longer than a step
(formula 2 of DeServe's section 3). Once, both rings also answer the same rows, and tokens are compared one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from bars.group import Settings
from bars.journal import Journal
from bars.rounds import Contestant, Experiment, Measure
from bars.rows import Requirement, Row
from bars.steady import Rows, measure_steady
from bars.workload import MODELS, make_bench_model, make_prompts, request_body
from deserve_testnet.config import TestnetConfig
from deserve_testnet.run import run_batch
from deserve_testnet.testnet import Testnet

__all__ = ["experiments", "rows"]

_EXPERIMENT = "h bench"
_ALL, _EIGHTH = "all on the device", "an eighth on the device"
_STAGES, _ROWS, _PROMPT, _NEW = 4, 1024, 32, 64
_TOKEN_BYTES = 8 * 2 * 4 * 64 * 4 // _STAGES
"""Keys and values of one token on one stage: 2 of 8 layers, 4 heads of 64 values in fp32."""
_NEEDED_BYTES = _ROWS * (_PROMPT + _NEW // 2) * _TOKEN_BYTES
_COPY_RATE = "2GB"
_COMPARED_ROWS, _COMPARED_TOKENS = 512, 24


def experiments(settings: Settings) -> list[Experiment]:
    make_bench_model()
    whole = TestnetConfig(model=MODELS[0].source, nodes=_STAGES, memory="2GiB", max_rows=_ROWS)
    limited = replace(
        whole,
        kv_memory=str(_NEEDED_BYTES // 8),
        host_memory=str(2 * _NEEDED_BYTES),
        copy_rate=_COPY_RATE,
    )
    contestants = (_contestant(_ALL, whole, settings), _contestant(_EIGHTH, limited, settings))
    return [Experiment(_EXPERIMENT, contestants, settings.rounds)]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    over = Requirement("h", "bench: an eighth of KV on the device / all", ">=", 0.95, "x")
    return [
        Row.of(over, journal.ratios(_EXPERIMENT, _EIGHTH, _ALL)),
        Row.of(Requirement("h", f"rows of {_COMPARED_ROWS} with other tokens", "<=", 0), _different(journal)),
        *(
            Row.of(
                Requirement("h", f"bench: {name}", "report", unit=" tok/s"),
                journal.values(_EXPERIMENT, name, "tokens_per_s"),
            )
            for name in (_ALL, _EIGHTH)
        ),
    ]


def _different(journal: Journal) -> list[float]:
    digests = [journal.rounds(_EXPERIMENT, name).get(0, {}).get("row_tokens") for name in (_ALL, _EIGHTH)]
    if None in digests:
        return []
    return [float(sum(a != b for a, b in zip(*digests, strict=True)))]


def _contestant(name: str, config: TestnetConfig, settings: Settings) -> Contestant:
    workload = Rows(64 if settings.quick else _ROWS, _PROMPT, _NEW, 4000.0)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Measure]:
        answers: list[str] = []

        async def measure() -> dict[str, Any]:
            first = not answers
            if first:
                answers[:] = await _answers(net)
            window_s, settle_s = (3, 0) if settings.quick else (20, 10)
            window = await measure_steady(net, workload, window_s=window_s, settle_s=settle_s)
            return {**window.figures(), **({"row_tokens": answers} if first else {})}

        async with Testnet(config) as net:
            yield measure

    return Contestant(name, opened)


async def _answers(net: Testnet) -> list[str]:
    """A digest of the tokens of every row, in the order of the rows."""
    source, output = net.directory / "compared.jsonl", net.directory / "answers.jsonl"
    with source.open("w") as lines:
        for number, prompt in enumerate(make_prompts(_COMPARED_ROWS)):
            body = request_body(net.config.model, prompt, _COMPARED_TOKENS)
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
            lines.write(json.dumps(line) + "\n")
    await run_batch(net, source, output)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    tokens = [line["response"]["body"]["choices"][0]["token_ids"] for line in found]
    return [hashlib.blake2b(json.dumps(ids).encode(), digest_size=8).hexdigest() for ids in tokens]
