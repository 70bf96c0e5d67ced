"""Bar e: how equal steps are while prompts of 64 to 2,048 tokens ride along, and how fast one long prompt passes.

Timed stages with DeServe's step times. The lengths of single steps are read off a middle stage: it is looked at more
often than it takes steps, and between two looks its busy time grows by exactly the step that ended.

The long prompt waits for a round trip after each chunk in two ways: with the chunks that pipelining takes, and
"unchunked", with as many tokens as a node lets into a step (2,048), which is kinder to a ring that waits.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bars.group import Settings
from bars.journal import Journal
from bars.networks import SteadyNetwork, write_profile
from bars.ring_status import RingStatus, ring_status
from bars.rounds import Contestant, Experiment, Measure
from bars.rows import Requirement, Row
from bars.steady import Rows
from deserve_client.api import CoordinatorClient
from deserve_client.settings import Settings as ClientSettings
from deserve_testnet.config import TestnetConfig
from deserve_testnet.prompts.synthetic import synthetic_rows, write_rows
from deserve_testnet.testnet import Testnet

__all__ = ["MixedRows", "experiments", "rows"]

_SPREAD, _PASS = "e spread", "e long prompt"
_CHUNKED, _WHOLE = "chunked", "whole prompts"
_PIPELINED, _ROUND_TRIPS, _UNCHUNKED = "sequence pipelining", "a chunk a round trip", "unchunked"
_STAGES, _LATENCY_MS = 4, 64
_LONG_PROMPT = 8_192
_PROFILE = {
    "fixed_ms": 66.3,
    "token_ms": 0.278,
    "pair_us": 0.01,
    "hidden": 256,
    "dtype": "bfloat16",
    "page_tokens": 16,
    "device_pages": 40_000,
    "context_tokens": 16_384,
}
_WATCHED_STAGE = 1
_LOOK_S = 0.008
"""An eighth of the shortest step, so that no two steps end between two looks."""


@dataclass(frozen=True)
class MixedRows(Rows):
    """Rows that decode, and among those that replace them every eighth with a prompt of 64 to 2,048 tokens."""

    def lines(self, model: str, seconds: float) -> Iterator[dict[str, Any]]:
        draw = random.Random(0)
        for number, row in enumerate(super().lines(model, seconds)):
            if number >= self.in_flight and number % 8 == 0:
                row["body"]["prompt"] = [20 + place % 200 for place in range(draw.randint(64, 2_048))]
            yield row


def experiments(settings: Settings) -> list[Experiment]:
    profile = write_profile(settings.scratch / "spread.toml", _PROFILE)
    spread = tuple(
        SteadyNetwork(
            name,
            TestnetConfig(nodes=_STAGES, latency_ms=_LATENCY_MS, stage_profile=profile, plan=plan),
            MixedRows(512, 16, 64, 1500.0),
            window_s=5 if settings.quick else 40,
            settle_s=0 if settings.quick else 10,
            during=_watch_steps,
        ).contestant()
        for name, plan in ((_CHUNKED, ""), (_WHOLE, "whole_prompts=1"))
    )
    passing = tuple(
        _long_prompt(name, TestnetConfig(nodes=_STAGES, latency_ms=_LATENCY_MS, stage_profile=profile, plan=plan))
        for name, plan in (
            (_PIPELINED, ""),
            (_ROUND_TRIPS, "chunks_in_flight=1"),
            (_UNCHUNKED, "whole_prompts=1,chunks_in_flight=1"),
        )
    )
    return [Experiment(_SPREAD, spread, settings.rounds, kept=False), Experiment(_PASS, passing, settings.rounds)]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    spread = journal.values(_SPREAD, _CHUNKED, "step_variation")
    whole = journal.values(_SPREAD, _WHOLE, "step_variation")
    faster = journal.ratios(_PASS, _ROUND_TRIPS, _PIPELINED, "seconds")
    than_unchunked = journal.ratios(_PASS, _UNCHUNKED, _PIPELINED, "seconds")
    return [
        Row.of(Requirement("e", "variation of step times, chunked", "<=", 0.15), spread),
        Row.of(Requirement("e", "variation of step times, whole prompts", "report"), whole),
        Row.of(Requirement("e", f"{_LONG_PROMPT} tokens: pipelined / a chunk a round trip", ">=", 2.5, "x"), faster),
        Row.of(Requirement("e", f"{_LONG_PROMPT} tokens: pipelined / unchunked", "report", unit="x"), than_unchunked),
        *(
            Row.of(
                Requirement("e", f"{_LONG_PROMPT} tokens: {name}", "report", unit=" s"),
                journal.values(_PASS, name, "seconds"),
            )
            for name in (_PIPELINED, _ROUND_TRIPS, _UNCHUNKED)
        ),
    ]


async def _watch_steps(status: RingStatus, window_s: float) -> dict[str, Any]:
    """The coefficient of variation of the steps that a middle stage takes."""
    step_s: list[float] = []
    before = await status.stage(_WATCHED_STAGE)
    end = time.monotonic() + window_s
    while time.monotonic() < end:
        now = await status.stage(_WATCHED_STAGE)
        if now["steps"] == before["steps"] + 1:
            step_s.append(now["busy_s"] - before["busy_s"])
        before = now
        await asyncio.sleep(_LOOK_S)
    mean = statistics.fmean(step_s)
    return {"step_variation": statistics.pstdev(step_s) / mean, "step_mean_s": mean, "step_longest_s": max(step_s)}


def _long_prompt(name: str, config: TestnetConfig) -> Contestant:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Measure]:
        async with Testnet(config) as net:
            yield lambda: _pass(net)

    return Contestant(name, opened)


async def _pass(net: Testnet) -> dict[str, Any]:
    """Seconds from a long prompt's first step to its token: what the ring needs, the coordinator's part left out."""
    row = synthetic_rows(net.config.model, rows=1, prompt_tokens=_LONG_PROMPT, new_tokens=1)
    source = write_rows(net.directory / "long.jsonl", row)
    async with CoordinatorClient(ClientSettings(net.base_url, net.api_key)) as client, ring_status(net) as status:
        file = await client.upload(source)
        idle = await status.stage(0)
        await client.create_batch(file["id"], "/v1/completions")
        begun = await status.until(lambda head: head["rows_active"] > 0)
        ended = await status.until(lambda head: head["completion_tokens"] > idle["completion_tokens"])
    return {
        "seconds": ended["since_begin_s"] - begun["since_begin_s"],
        "steps": ended["steps"] - idle["steps"],
    }
