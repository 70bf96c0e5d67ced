"""Tokens per second of a ring against one process of ours and against padded `transformers.generate`.

    python tests/benchmarks/ring.py [--model bench|demo|both] [--rounds 3] [--json]

Contestants run in turn, round after round, in one run; ratios are taken within a round and their median is reported,
so that a machine whose speed drifts does not decide. The workload: 64 prompts of 16 to 128 random tokens, 64 new tokens
each on the bench model (a random Llama of 27M parameters), 32 on SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deserve_client.api import CoordinatorClient
from deserve_client.settings import Settings
from deserve_models import resolve
from deserve_node.local import LocalRing
from deserve_testnet.config import TestnetConfig
from deserve_testnet.testnet import Testnet

PROMPTS = 64
LONG = 256
VOCABULARY = 8192
STAGES = 4

# (name, numerator, denominator, bar): the bars that this project holds itself to.
RATIOS = [
    ("one process / generate", "one process", "generate", 1.3),
    ("4 processes at 0 ms / one process", "ring 0 ms", "one process", 0.8),
    ("256 rows at 50 ms / at 0 ms", "ring 50 ms, 256 rows", "ring 0 ms, 256 rows", 0.7),
    ("64 rows at 50 ms / at 0 ms", "ring 50 ms", "ring 0 ms", None),
]


@dataclass(frozen=True)
class Setting:
    name: str
    model: str
    new_tokens: int


def make_bench_model(directory: Path) -> Path:
    """Random Llama: 8 layers, hidden 512, intermediate 1376, 8 heads, 4 KV heads, vocabulary 8192, fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (directory / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def make_prompts(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(10, VOCABULARY) for _ in range(draw.randint(16, 128))] for _ in range(count)]


def body(prompt: list[int], setting: Setting) -> dict[str, Any]:
    return {
        "model": setting.model,
        "prompt": prompt,
        "max_tokens": setting.new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }


class Generate:
    """`transformers.generate` over one left-padded batch."""

    def __init__(self, directory: Path, setting: Setting) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._new = setting.new_tokens

    def __call__(self, prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=self._new,
                min_new_tokens=self._new,
                do_sample=False,
                pad_token_id=0,
            )
        tokens: list[list[int]] = output[:, width:].tolist()
        return tokens


class Ring:
    """A testnet that stays up; a call is one batch, timed from its creation to its last row."""

    def __init__(self, net: Testnet, setting: Setting, directory: Path) -> None:
        self._net = net
        self._setting = setting
        self._directory = directory

    async def __call__(self, prompts: list[list[int]]) -> float:
        source = self._directory / "batch.jsonl"
        with source.open("w") as lines:
            for number, prompt in enumerate(prompts):
                line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions"}
                lines.write(json.dumps({**line, "body": body(prompt, self._setting)}) + "\n")
        async with CoordinatorClient(Settings(self._net.base_url, self._net.api_key)) as client:
            file = await client.upload(source)
            started = time.perf_counter()
            batch = await client.create_batch(file["id"], "/v1/completions")
            while batch["request_counts"]["completed"] < len(prompts):
                if batch["status"] == "failed" or batch["request_counts"]["failed"]:
                    raise RuntimeError(f"rows failed: {batch}")
                await asyncio.sleep(0.05)
                batch = await client.batch(batch["id"])
            return time.perf_counter() - started


async def measure(setting: Setting, rounds: int, report: Callable[[str], None]) -> dict[str, list[float]]:
    """Output tokens per second of every contestant, one figure a round."""
    files = resolve(setting.model)
    prompts, many = make_prompts(PROMPTS), make_prompts(LONG)
    generate = Generate(files.directory, setting)
    one = LocalRing(files, kv_bytes=2 << 30)
    found: dict[str, list[float]] = {}

    async def timed(name: str, rows: int, run: Callable[[], Awaitable[float]]) -> None:
        seconds = await run()
        found.setdefault(name, []).append(rows * setting.new_tokens / seconds)
        report(f"{setting.name}: {name}: {found[name][-1]:.0f} tokens/s")

    def clocked(call: Callable[[], object]) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            started = time.perf_counter()
            await asyncio.to_thread(call)
            return time.perf_counter() - started

        return run

    async with AsyncExitStack() as stack:
        rings = {}
        for latency in (0.0, 50.0):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            config = TestnetConfig(model=setting.model, nodes=STAGES, latency_ms=latency, memory="3GiB")
            rings[latency] = Ring(await stack.enter_async_context(Testnet(config)), setting, directory)
        rows = [("/v1/completions", body(prompt, setting)) for prompt in prompts]
        ours = await asyncio.to_thread(one.serve, rows)
        theirs = await asyncio.to_thread(generate, prompts)
        same = sum(json.loads(a.body)["choices"][0]["token_ids"] == b for a, b in zip(ours, theirs, strict=True))
        report(f"{setting.name}: {same} of {len(theirs)} rows equal to generate")
        for latency in (0.0, 50.0):
            await rings[latency](prompts[:8])
        for _ in range(rounds):
            await timed("generate", PROMPTS, clocked(lambda: generate(prompts)))
            await timed("one process", PROMPTS, clocked(lambda: one.serve(rows)))
            await timed("ring 0 ms", PROMPTS, lambda: rings[0.0](prompts))
            await timed("ring 50 ms", PROMPTS, lambda: rings[50.0](prompts))
            await timed("ring 0 ms, 256 rows", LONG, lambda: rings[0.0](many))
            await timed("ring 50 ms, 256 rows", LONG, lambda: rings[50.0](many))
    one.close()
    return found


def table(setting: Setting, found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Ratios within each round, with their median and range."""
    rows = []
    for name, above, below, bar in RATIOS:
        ratios = [a / b for a, b in zip(found[above], found[below], strict=True)]
        rows.append(
            {
                "model": setting.name,
                "ratio": name,
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
                "bar": bar,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bench", "demo", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deserve-net" / "bench-model"
    settings = {
        "bench": Setting("bench", str(cache), 64),
        "demo": Setting("SmolLM2-135M", "demo", 32),
    }
    chosen = list(settings.values()) if arguments.model == "both" else [settings[arguments.model]]
    if any(setting.name == "bench" for setting in chosen):
        make_bench_model(cache)
    results: dict[str, Any] = {"tokens_per_s": {}, "ratios": []}
    for setting in chosen:
        found = asyncio.run(measure(setting, arguments.rounds, lambda line: print(line, file=sys.stderr, flush=True)))
        results["tokens_per_s"][setting.name] = {
            name: round(statistics.median(values), 1) for name, values in found.items()
        }
        results["ratios"] += table(setting, found)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, figures in results["tokens_per_s"].items():
        print(f"\n{name}: output tokens/s, prefill included, median of {arguments.rounds}")
        for contestant, figure in figures.items():
            print(f"  {contestant:<24}{figure:>8.0f}")
    print(f"\n{'ratio':<38}{'model':<14}{'median':>7}{'min':>7}{'max':>7}{'bar':>6}")
    for row in results["ratios"]:
        bar = "-" if row["bar"] is None else f"{row['bar']:.2f}"
        print(f"{row['ratio']:<38}{row['model']:<14}{row['median']:>7.2f}{row['min']:>7.2f}{row['max']:>7.2f}{bar:>6}")


if __name__ == "__main__":
    main()
