"""A ring of one in this process: the same scheduler, engine and text handling, without a network.

For benchmarks, tests and audits; a daemon builds the same parts in `member`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deserve_models import ModelFiles, inspect
from deserve_network.control_messages import Lease, LeasedRow, RowResult
from deserve_network.ring_messages import SampledToken
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.host_memory import open_swapper
from deserve_node.kv_limits import KvLimits
from deserve_node.ring.compute import Compute
from deserve_node.ring.head import Head
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.shard.loading import load_shard
from deserve_plan.cost import StageCost
from deserve_plan.plan import RingPlan
from deserve_text.tokenizer import TextModel

__all__ = ["LocalRing"]

UNLIMITED = KvLimits()


class _Results:
    """A desk that waits for a known number of rows."""

    def __init__(self, expected: int) -> None:
        self.results: dict[int, RowResult] = {}
        self._expected = expected
        self.complete = asyncio.Event()

    def want_rows(self, rows: int, codecs: tuple[str, ...]) -> None:
        """All rows were given at once; there are no more."""

    def rows_done(self, results: Sequence[RowResult]) -> None:
        self.results.update((result.row, result) for result in results)
        if len(self.results) == self._expected:
            self.complete.set()


class LocalRing:
    """All layers of a model behind one scheduler; with host memory in `kv`, microbatches swap `swap_pages` pages each.

    `serve` may be called again; `close` ends its threads.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        kv_bytes: int = 1 << 30,
        max_rows: int = 256,
        token_budget: int = 512,
        microbatches: int = 1,
        kv: KvLimits = UNLIMITED,
        swap_pages: int = 0,
    ) -> None:
        where = device or torch.device("cpu")
        shard = load_shard(files, 0, inspect(files).num_layers, dtype=dtype, device=where)
        cache = KvCache(
            shard.kv_layers,
            kv_bytes=min(kv_bytes, kv.device_bytes or kv_bytes),
            dtype=dtype,
            device=where,
            page_tokens=kv.page_tokens,
            host_bytes=kv.host_bytes,
        )
        self.engine = Engine(shard, cache)
        self.text = TextModel.load(files.directory)
        self.compute = Compute(self.engine, open_swapper(cache, where, kv.copy_bytes_per_s))
        self._max_rows = max_rows
        self._token_budget = token_budget
        self._microbatches = microbatches
        self._swap_pages = swap_pages
        self.preemptions = 0

    def serve(
        self,
        rows: Sequence[tuple[str, dict[str, Any]]],
        *,
        seed: int = 0,
        generated: Mapping[int, Sequence[int]] | None = None,
    ) -> list[RowResult]:
        """Run (endpoint, body) rows to the end; results in input order. `generated` are token logs to continue from."""
        return asyncio.run(self._serve(rows, seed, generated or {}))

    async def _serve(
        self, rows: Sequence[tuple[str, dict[str, Any]]], seed: int, generated: Mapping[int, Sequence[int]]
    ) -> list[RowResult]:
        desk = _Results(len(rows))
        scheduler = Scheduler(
            KvBudget([self.engine.cache.shapes]),
            self._plan_for(self._max_rows, True),
            [StageCost(0.0, 1.0)],
            plan_for=self._plan_for,
            max_rows=self._max_rows,
            max_tokens=self._token_budget,
        )
        head = Head(
            "local",
            0,
            compute=self.compute,
            scheduler=scheduler,
            text=self.text,
            desk=desk,
            links=None,
        )
        leased = [
            LeasedRow(number, endpoint, json.dumps(body).encode(), seed + number, _log(generated.get(number, ())))
            for number, (endpoint, body) in enumerate(rows)
        ]
        running = asyncio.create_task(head.run())
        await head.add(Lease(0, 0, 0.0, tuple(leased)))
        complete = asyncio.create_task(desk.complete.wait())
        await asyncio.wait([running, complete], return_when=asyncio.FIRST_COMPLETED)
        if not complete.done():
            complete.cancel()
            await running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.preemptions = scheduler.preemptions
        # Sequences of the next call count from zero again: nothing of this one may be left.
        self.compute.forget(range(scheduler.sequences))
        return [desk.results[number] for number in range(len(rows))]

    def _plan_for(self, rows: int, more_to_come: bool) -> RingPlan:
        """Nothing waits for a ring of one, so its steps are bounded in tokens: at a second each, as costs are here."""
        microbatches = min(self._microbatches, max(1, rows))
        return RingPlan(microbatches, -(-rows // microbatches), float(self._token_budget), (self._swap_pages,))

    def close(self) -> None:
        self.compute.close()


def _log(tokens: Sequence[int]) -> tuple[SampledToken, ...]:
    return tuple(SampledToken(0, position, token) for position, token in enumerate(tokens))
