"""One membership of a ring: load the assigned layers, link up, measure, run, and give everything back.

A membership lives from Assign to Release (or failure). It never talks to the coordinator itself: the daemon passes
messages in and out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from deserve_models import ModelFiles
from deserve_network.control_messages import (
    Assign,
    Begin,
    Cancel,
    KvPool,
    Lease,
    Recall,
    RowLog,
    RowsReturned,
    StageFailed,
    StagePlace,
    StageReady,
    Stats,
)
from deserve_network.link import MAX_PAYLOAD_BYTES
from deserve_network.links import Links
from deserve_network.stage_ready import ready_fault
from deserve_node.background import BackgroundThread
from deserve_node.engine import PoolShape
from deserve_node.engine.interface import ShardFacts
from deserve_node.errors import NodeError
from deserve_node.kv_limits import KvLimits
from deserve_node.loaded_stage import LoadedStage, load_stage
from deserve_node.measure import machine_id
from deserve_node.outbox import Outbox, returned_in_parts
from deserve_node.proof.committer import Committer, StagePosition
from deserve_node.proof.head import HeadCommitments
from deserve_node.proof.work_proofs import WorkProofs
from deserve_node.ring.compute import Compute
from deserve_node.ring.desk import HeadLinks
from deserve_node.ring.figures import ring_figures
from deserve_node.ring.head import Head
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.neighbours import LINK_DEADLINE_S, Neighbours, first_cause
from deserve_node.ring.planning import Planner
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.stage import Stage, Tail
from deserve_node.timed.profile import RingProfile
from deserve_node.timed.stage import timed_stage
from deserve_node.wallet.engagement import Engagement
from deserve_plan.plan import PlanOverrides, Unplannable
from deserve_process.cores import usable_cores
from deserve_text.tokenizer import TextModel

__all__ = ["AssignmentError", "Lending", "RingMember"]

log = logging.getLogger(__name__)


class AssignmentError(NodeError):
    """The coordinator's Assign or Begin does not fit this node."""


@dataclass(frozen=True, slots=True)
class Lending:
    """What this node puts into a ring."""

    peer_id: str
    device: torch.device
    memory_bytes: int
    max_rows: int
    token_budget: int
    kv: KvLimits
    overrides: PlanOverrides
    """What of the ring's plan is set by hand, where this node is the head."""
    profile: RingProfile | None
    """Stages take its time instead of computing; None: they compute."""
    cheat: str = ""
    """How they misbehave, in a testnet."""


class RingMember:
    """prepare(), at the head begin(), run(), close(), in this order. An unfit assignment is an `AssignmentError`."""

    def __init__(
        self,
        assign: Assign,
        files: ModelFiles,
        links: Links,
        lending: Lending,
        reports: Iterator[int],
        thread: BackgroundThread,
        *,
        proofs: WorkProofs | None = None,
        link_deadline_s: float = LINK_DEADLINE_S,
        engagement: Engagement | None = None,
    ) -> None:
        """Without `proofs` nothing is committed to: nobody pays."""
        if not 0 <= assign.stage < len(assign.stages) or assign.stages[assign.stage].peer_id != lending.peer_id:
            raise AssignmentError(f"stage {assign.stage} of {len(assign.stages)} is not this node's")
        if len(assign.links) not in (0, len(assign.stages)):
            raise AssignmentError(f"{len(assign.links)} links are emulated in a ring of {len(assign.stages)} stages")
        self.assign = assign
        self._files = files
        self._neighbours = Neighbours(assign, links, deadline_s=link_deadline_s)
        self._lending = lending
        self._thread = thread
        self.engagement = engagement
        """Who pays; None: nobody does."""
        self._proofs = proofs
        self._committer: Committer | None = None
        self._loaded: LoadedStage | None = None
        """Until a compute thread owns it."""
        self._closed = False
        self._compute: Compute | None = None
        self._head: Head | None = None
        self._text: TextModel | None = None
        self._began = asyncio.Event()
        self._began_s: float | None = None
        self._orders: deque[Lease | Cancel | Recall] = deque()
        """What the coordinator wants of the head and it has not done yet, the one under way included."""
        self._ordered = asyncio.Event()
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
        """Load, link, measure. Raises `NodeError` or `NetworkError` with the reason, in an exception group."""
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(self._thread.run(self._load_or_drop))
            tasks.create_task(self._neighbours.connect())
        loaded = loading.result()
        engine = loaded.engine
        # From here on its compute thread closes the swapper.
        clearance = None if self.engagement is None else self.engagement.new_clearance()
        compute = Compute(engine, loaded.swapper, stage=self.assign.stage, clearance=clearance)
        self._loaded, self._compute = None, compute
        if self._proofs is not None and not self._closed:
            self._committer = self._proofs.committer(self._position(engine.shard))
        return StageReady(
            ring=self.assign.ring,
            epoch=self.assign.epoch,
            stage=self.assign.stage,
            page_tokens=engine.cache.page_tokens,
            page_bytes=engine.cache.page_bytes,
            pools=tuple(
                KvPool(shape.window, shape.chunk, shape.pages, shape.host_pages) for shape in engine.cache.shapes
            ),
            copy_in_bytes_per_s=loaded.copy_in_bytes_per_s,
            copy_out_bytes_per_s=loaded.copy_out_bytes_per_s,
            cost=loaded.cost,
            link=await self._neighbours.measure(),
            machine=machine_id(),
            cores=usable_cores(),
            threads=torch.get_num_threads(),
            occupies_cores=loaded.occupies_cores,
        )

    def _position(self, shard: ShardFacts) -> StagePosition:
        assign, place = self.assign, self.place
        previous = assign.stages[assign.stage - 1].peer_id if assign.stage else ""
        stage = (assign.ring, assign.epoch, assign.stage, place.first, place.last)
        return StagePosition(*stage, shard.dtype, shard.hidden_size, previous)

    def _load_or_drop(self) -> LoadedStage:
        """On the loading thread: a membership that ended meanwhile has nobody who would close what was loaded."""
        loaded = self._load()
        self._loaded = loaded
        if self._closed:
            self._drop_loaded()
        return loaded

    def _drop_loaded(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded.swapper is not None:
            loaded.swapper.close()

    def _load(self) -> LoadedStage:
        assign, lending = self.assign, self._lending
        context_tokens = 0
        if lending.profile is None:
            place, dtype = self.place, assign.model.dtype
            loaded = load_stage(
                self._files,
                place.first,
                place.last,
                dtype=dtype,
                device=lending.device,
                memory_bytes=lending.memory_bytes,
                kv=lending.kv,
                cheat=lending.cheat,
            )
        else:
            context_tokens = lending.profile.common.context_tokens
            loaded = timed_stage(lending.profile, self._files, stage=assign.stage, stages=len(assign.stages))
        if self.is_head:
            self._text = TextModel.load(self._files.directory, context_tokens=context_tokens)
        return loaded

    def _may_begin(self) -> bool:
        return self._compute is not None and self._text is not None and self._head is None

    async def begin(self, begin: Begin) -> None:
        """Head only: every stage is ready; build the scheduler from what they have. Raises `AssignmentError`."""
        if not self._may_begin():
            raise AssignmentError("Begin for a stage that is no head, is not ready, or has begun")
        assert self._compute is not None
        assert self._text is not None
        for stage, ready in enumerate(begin.ready):
            if (fault := ready_fault(ready)) is not None:
                raise AssignmentError(f"Begin: stage {stage}: {fault[0]}: {fault[1]}")
        pools = [
            [PoolShape(pool.window, pool.chunk, pool.pages, pool.host_pages, ready.page_tokens) for pool in ready.pools]
            for ready in begin.ready
        ]
        shard, lending = self._compute.engine.shard, self._lending
        token_bytes = shard.hidden_size * shard.dtype.itemsize
        step_tokens = min(lending.token_budget, MAX_PAYLOAD_BYTES // token_bytes)
        try:
            # It solves for the first plan, while links have to answer heartbeats.
            planner = await asyncio.to_thread(
                Planner,
                ring_figures(begin.ready, hidden=shard.hidden_size, value_bytes=shard.dtype.itemsize),
                max_rows=lending.max_rows,
                step_tokens=step_tokens,
                overrides=lending.overrides,
            )
        except Unplannable as error:
            raise AssignmentError(f"Begin cannot be planned for: {error}") from error
        if not self._may_begin():
            return  # closed, or told twice, while it was solved
        scheduler = Scheduler(
            KvBudget(pools),
            planner.plan,
            planner.costs,
            plan_for=planner.plan_for,
            max_rows=lending.max_rows,
            max_tokens=step_tokens,
            latency_s=planner.latency_s,
            chunks_in_flight=lending.overrides.chunks_in_flight or 0,
            whole_prompts=bool(lending.overrides.whole_prompts),
        )
        links = None
        if self._neighbours.next is not None and self._neighbours.token is not None:
            links = HeadLinks(self._neighbours.next, self._neighbours.token)
        proof = None
        if self._committer is not None:
            proof = HeadCommitments(self._committer, "" if links is None else links.tail.peer_id)
        self._head = Head(
            self.assign.ring,
            self.assign.epoch,
            compute=self._compute,
            scheduler=scheduler,
            text=self._text,
            desk=self.outbox,
            links=links,
            planner=planner,
            proof=proof,
        )
        self._began_s = time.monotonic()
        self._began.set()

    def order(self, order: Lease | Cancel | Recall) -> None:
        """Head only: rows to serve, to forget or to give back, done in the order of their arrival."""
        self._orders.append(order)
        self._ordered.set()

    async def run(self) -> None:
        """Serve until cancelled. Raises what ended it, in an exception group; `failure` puts it into words."""
        assert self._compute is not None
        if self.is_head:
            await self._began.wait()
            assert self._head is not None
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._head.run())
                tasks.create_task(self._take_orders(self._head))
            return
        self._began_s = time.monotonic()
        neighbours, ring, epoch = self._neighbours, self.assign.ring, self.assign.epoch
        assert neighbours.previous is not None
        if self.is_tail:
            assert neighbours.token is not None
            tail = Tail(
                ring,
                epoch,
                compute=self._compute,
                previous=neighbours.previous,
                head=neighbours.token,
                committer=self._committer,
            )
            await tail.run()
            return
        assert neighbours.next is not None
        stage = Stage(
            ring,
            epoch,
            compute=self._compute,
            previous=neighbours.previous,
            following=neighbours.next,
            committer=self._committer,
        )
        await stage.run()

    async def _take_orders(self, head: Head) -> None:
        while True:
            while self._orders:
                order = self._orders[0]
                if isinstance(order, Lease):
                    await head.add(order)
                elif isinstance(order, Recall):
                    self.outbox.give_back(head.give_back(order.rows))
                else:
                    head.cancel(order.rows)
                self._orders.popleft()
            self._ordered.clear()
            await self._ordered.wait()

    def failure(self, error: BaseException) -> StageFailed:
        """What the coordinator is told when `prepare` or `run` ended with `error`."""
        cause = first_cause(error)
        reason = str(cause) or type(cause).__name__
        suspect = self._neighbours.suspect(cause)
        return StageFailed(self.assign.ring, self.assign.epoch, self.assign.stage, reason[:1024], suspect)

    def returned(self) -> list[RowsReturned]:
        """Recalled rows still under way, token logs of unfinished rows and rows not yet opened, in bounded messages."""
        logs = {log.row: log for log in (self._head.unfinished() if self._head is not None else ())}
        for order in self._orders:
            if isinstance(order, Lease):
                for row in order.rows:
                    logs.setdefault(row.row, RowLog(row.row, order.lease, order.fence, row.generated))
        returned = returned_in_parts(self.assign.ring, self.assign.epoch, logs.values())
        return [*self.outbox.unsent_returns, *returned]

    def stats(self, uptime_s: float) -> Stats:
        compute, head = self._compute, self._head
        cache = compute.engine.cache if compute else None
        return Stats(
            ring=self.assign.ring,
            epoch=self.assign.epoch,
            uptime_s=uptime_s,
            busy_s=compute.busy_s if compute else 0.0,
            since_begin_s=0.0 if self._began_s is None else time.monotonic() - self._began_s,
            steps=compute.steps if compute else 0,
            tokens=compute.tokens if compute else 0,
            kv_pages_used=compute.pages_used if compute else 0,
            kv_pages=sum(shape.capacity for shape in cache.shapes) if cache else 0,
            bytes_sent=self._neighbours.bytes_sent,
            bytes_received=self._neighbours.bytes_received,
            rtt_ms=self._neighbours.rtt_s * 1e3,
            carrier=self._neighbours.carrier,
            rows_active=head.rows_active if head else 0,
            completion_tokens=head.completion_tokens if head else 0,
            prompt_tokens=head.prompt_tokens if head else 0,
            microbatches=head.scheduler.microbatches if head else 0,
            rows_per_microbatch=head.scheduler.rows_per_microbatch if head else 0,
            plan=head.plan_report() if head else None,
        )

    async def close(self) -> None:
        """Close the links, wait for the step that computes, sign for what it did, drop the tensors. Safe to repeat."""
        self._closed = True
        await self._neighbours.close()
        await asyncio.to_thread(self._drop_loaded)
        if self._compute is not None:
            compute, self._compute = self._compute, None
            await asyncio.to_thread(compute.close)
        if self._committer is not None:
            committer, self._committer = self._committer, None
            await committer.finish()
