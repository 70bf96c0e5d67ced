"""One membership of a ring: load the assigned layers, link up, measure, run, and give everything back.

A membership lives from Assign to Release (or failure). It never talks to the coordinator itself: the daemon passes
messages in and out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from deserve_models import ModelFiles
from deserve_network.control_messages import (
    Assign,
    Begin,
    KvPool,
    Lease,
    RowsReturned,
    StageFailed,
    StagePlace,
    StageReady,
    Stats,
)
from deserve_network.errors import LinkLost, NetworkError
from deserve_network.link import Link
from deserve_network.links import Links
from deserve_node.engine import PAGE_TOKENS, Engine, KvCache, PoolShape
from deserve_node.errors import NodeError
from deserve_node.measure import machine_id, measure_step_time
from deserve_node.outbox import Outbox
from deserve_node.ring.compute import Compute
from deserve_node.ring.head import Head, HeadLinks
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.microbatches import RingTiming, microbatches_for
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.stage import Stage, Tail
from deserve_node.shard import load_shard
from deserve_node.tensors import DTYPES
from deserve_text.tokenizer import TextModel

__all__ = ["Lending", "RingMember"]

log = logging.getLogger(__name__)

LINK_DEADLINE_S = 120.0
"""Neighbours may still be loading their layers when we want to link up."""


@dataclass(frozen=True, slots=True)
class Lending:
    """What this node puts into a ring."""

    peer_id: str
    device: torch.device
    memory_bytes: int
    max_rows: int
    token_budget: int


class RingMember:
    """States: prepare() -> begin() at the head -> run() -> close(). Each is called once, by the daemon."""

    def __init__(
        self, assign: Assign, files: ModelFiles, links: Links, lending: Lending, reports: Iterator[int]
    ) -> None:
        self.assign = assign
        self._files = files
        self._links = links
        self._lending = lending
        self._open: list[Link] = []
        self._next: Link | None = None
        self._previous: Link | None = None
        self._token: Link | None = None
        """Between head and tail."""
        self._compute: Compute | None = None
        self._head: Head | None = None
        self._text: TextModel | None = None
        self._began = asyncio.Event()
        self._began_s = time.monotonic()
        self.outbox = Outbox(assign.ring, assign.epoch, reports)

    @property
    def place(self) -> StagePlace:
        return self.assign.stages[self.assign.stage]

    @property
    def is_head(self) -> bool:
        return self.assign.stage == 0

    @property
    def is_tail(self) -> bool:
        return self.assign.stage == len(self.assign.stages) - 1

    async def prepare(self) -> StageReady:
        """Load, link, measure. Raises `NodeError` or `NetworkError` with the reason."""
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(asyncio.to_thread(self._load))
            tasks.create_task(self._link_up())
        engine, time_16, time_64 = loading.result()
        self._compute = Compute(engine)
        onward = self._token if self.is_tail else self._next
        return StageReady(
            ring=self.assign.ring,
            epoch=self.assign.epoch,
            stage=self.assign.stage,
            page_tokens=PAGE_TOKENS,
            pools=tuple(KvPool(shape.window, shape.chunk, shape.pages) for shape in engine.cache.shapes),
            step_time_16_s=time_16,
            step_time_64_s=time_64,
            next_rtt_s=onward.rtt_s if onward is not None else 0.0,
            machine=machine_id(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
        )

    def _load(self) -> tuple[Engine, float, float]:
        dtype = DTYPES.get(self.assign.model.dtype)
        if dtype is None:
            raise NodeError(f"dtype {self.assign.model.dtype!r} is not one of {', '.join(DTYPES)}")
        device = self._lending.device
        shard = load_shard(self._files, self.place.first, self.place.last, dtype=dtype, device=device)
        left = self._lending.memory_bytes - shard.tensor_bytes
        cache = KvCache(shard.kv_layers, kv_bytes=left, dtype=dtype, device=device)
        engine = Engine(shard, cache)
        if self.is_head:
            self._text = TextModel.load(self._files.directory)
        log.info("layers [%d, %d): %d bytes of weights", shard.first, shard.last, shard.tensor_bytes)
        return engine, measure_step_time(engine, 16), measure_step_time(engine, 64)

    async def _link_up(self) -> None:
        count = len(self.assign.stages)
        if count == 1:
            return
        name = f"{self.assign.ring}/{self.assign.epoch}"
        stage = self.assign.stage
        async with asyncio.timeout(LINK_DEADLINE_S), asyncio.TaskGroup() as tasks:
            dialled = accepted = token = None
            if not self.is_tail:
                dialled = tasks.create_task(self._dial(self.assign.stages[stage + 1], f"{name}/{stage}"))
            if not self.is_head:
                accepted = tasks.create_task(self._accept(self.assign.stages[stage - 1], f"{name}/{stage - 1}"))
            if self.is_head:
                token = tasks.create_task(self._dial(self.assign.stages[-1], f"{name}/tokens"))
            elif self.is_tail:
                token = tasks.create_task(self._accept(self.assign.stages[0], f"{name}/tokens"))
        self._next = dialled.result() if dialled else None
        self._previous = accepted.result() if accepted else None
        self._token = token.result() if token else None

    async def _dial(self, peer: StagePlace, name: str) -> Link:
        link = await self._links.dial(peer.addresses, name, self.assign.link)
        self._open.append(link)
        return link

    async def _accept(self, peer: StagePlace, name: str) -> Link:
        link = await self._links.accept(name, peer.peer_id, self.assign.link)
        self._open.append(link)
        return link

    def begin(self, begin: Begin) -> None:
        """Head only: every stage is ready; build the scheduler from what they have."""
        assert self._compute is not None
        assert self._text is not None
        pools = [PoolShape(pool.window, pool.chunk, pool.pages) for ready in begin.ready for pool in ready.pools]
        timing = RingTiming.measured(begin.ready)
        scheduler = Scheduler(
            KvBudget(pools),
            microbatches=lambda rows: microbatches_for(timing, rows),
            max_rows=self._lending.max_rows,
            token_budget=self._lending.token_budget,
        )
        links = None
        if self._next is not None and self._token is not None:
            links = HeadLinks(self._next, self._token)
        self._head = Head(
            self.assign.ring,
            self.assign.epoch,
            compute=self._compute,
            scheduler=scheduler,
            text=self._text,
            desk=self.outbox,
            links=links,
            # One refill beyond what runs: a row that ends is replaced without a round trip to the coordinator.
            target_rows=self._lending.max_rows * 5 // 4,
        )
        self._began_s = time.monotonic()
        self._began.set()

    async def run(self) -> None:
        """Serve until cancelled. Raises what ended it; `failure` puts it into words."""
        assert self._compute is not None
        if self.is_head:
            await self._began.wait()
            assert self._head is not None
            await self._head.run()
            return
        self._began_s = time.monotonic()
        assert self._previous is not None
        if self.is_tail:
            assert self._token is not None
            await Tail(
                self.assign.ring, self.assign.epoch, compute=self._compute, previous=self._previous, head=self._token
            ).run()
            return
        assert self._next is not None
        await Stage(
            self.assign.ring, self.assign.epoch, compute=self._compute, previous=self._previous, following=self._next
        ).run()

    def failure(self, error: BaseException) -> StageFailed:
        """What the coordinator is told when `prepare` or `run` ended with `error`."""
        cause = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        suspect = ""
        if isinstance(cause, LinkLost):
            suspect = next((link.peer_id for link in self._open if link.lost), "")
        reason = str(cause) or type(cause).__name__
        return StageFailed(self.assign.ring, self.assign.epoch, self.assign.stage, reason[:1024], suspect)

    async def lease(self, lease: Lease) -> None:
        if self._head is not None:
            await self._head.add(lease)

    def cancel(self, rows: tuple[int, ...]) -> None:
        if self._head is not None:
            self._head.cancel(rows)

    def returned(self) -> RowsReturned | None:
        """Head only: the token logs of unfinished rows."""
        if self._head is None:
            return None
        return RowsReturned(self.assign.ring, self.assign.epoch, tuple(self._head.unfinished()))

    def stats(self, uptime_s: float) -> Stats:
        compute, head = self._compute, self._head
        cache = compute.engine.cache if compute else None
        onward = self._token if self.is_tail else self._next
        return Stats(
            ring=self.assign.ring,
            epoch=self.assign.epoch,
            uptime_s=uptime_s,
            busy_s=compute.busy_s if compute else 0.0,
            since_begin_s=time.monotonic() - self._began_s,
            steps=compute.steps if compute else 0,
            tokens=compute.tokens if compute else 0,
            kv_pages_used=cache.pages_used if cache else 0,
            kv_pages=sum(shape.pages for shape in cache.shapes) if cache else 0,
            bytes_sent=sum(link.bytes_sent for link in self._open),
            bytes_received=sum(link.bytes_received for link in self._open),
            rtt_ms=onward.rtt_s * 1e3 if onward is not None else 0.0,
            rows_active=head.rows_active if head else 0,
            completion_tokens=head.completion_tokens if head else 0,
            prompt_tokens=head.prompt_tokens if head else 0,
            microbatches=head.microbatches if head else 0,
            rows_per_microbatch=head.rows_per_microbatch if head else 0,
        )

    async def close(self) -> None:
        """Close the links, end the compute thread, drop the tensors."""
        for link in self._open:
            try:
                await link.close()
            except NetworkError as error:
                log.debug("closing a link: %s", error)
        if self._compute is not None:
            compute, self._compute = self._compute, None
            await asyncio.to_thread(compute.close)
