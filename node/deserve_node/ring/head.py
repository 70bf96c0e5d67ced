"""The head of a ring: it opens leased rows, drives the scheduler, computes stage 0 and turns tokens into results.

The head has no opinion on what to run (`Scheduler`), how text works (`HeadRow`) or how the coordinator is reached: it
asks for rows and hands over results through `Desk`. In a ring of one it is the tail as well and has no links.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from deserve_ledger.identifiers import CHUNK_STEPS
from deserve_network.control_messages import MAX_LEASE_ROWS, Lease, PlanReport, RowLog, RowResult
from deserve_network.link import Link
from deserve_network.ring_messages import ChunkClosed, RowLabel, Sampled, Step, Tune
from deserve_node.errors import NodeError
from deserve_node.proof.head import HeadCommitments
from deserve_node.ring.compute import Compute, Computed, StepWork
from deserve_node.ring.desk import Desk, HeadLinks
from deserve_node.ring.payload import pack_payload, packed_runs, plain_outputs
from deserve_node.ring.planning import Planner
from deserve_node.ring.rows import HeadRow, error_result, open_all, too_large
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.step_plan import StepPlan
from deserve_plan.cost import StepLoad
from deserve_plan.keeper import ReturnedStep
from deserve_plan.plan import RingPlan
from deserve_text.errors import RequestError
from deserve_text.tokenizer import TextModel

__all__ = ["STEPS_IN_LINE", "Head", "RingProtocolError"]

log = logging.getLogger(__name__)

OPENED_TOGETHER = 16
"""Rows for which the loop is left once: a thread's hop takes as long as a short row."""
MOST_STEP_S = 3600.0
"""No stage spends so long on a step."""
STEPS_IN_LINE = 1
"""Steps between the one whose result is sent on next and the one that was submitted last. So three are submitted: while
one computes, another is ready for when it ends, and pages come in for two steps ahead."""


class RingProtocolError(NodeError):
    """A stage of this ring sent something that does not belong there."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A step that is not back yet."""

    load: StepLoad
    prompt_tokens: int
    hidden_bytes: int
    """Of its hidden states on a link."""


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step that computes, with the labels of the rows that begin with it."""

    plan: StepPlan
    labels: tuple[RowLabel, ...]
    computing: asyncio.Future[Computed]


class Head:
    """Runs until cancelled, or until a link fails (which it raises). All methods belong to the event loop's thread."""

    def __init__(
        self,
        ring: str,
        epoch: int,
        *,
        compute: Compute,
        scheduler: Scheduler,
        text: TextModel,
        desk: Desk,
        links: HeadLinks | None,
        planner: Planner | None = None,
        proof: HeadCommitments | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Without a planner the scheduler keeps the plan that it has; without `proof` nothing is committed to."""
        self._ring = ring
        self._epoch = epoch
        self._compute = compute
        self._scheduler = scheduler
        self._text = text
        self._desk = desk
        self._links = links
        self._planner = planner
        self._proof = proof
        self._clock = clock
        self._under_way: dict[int, _UnderWay] = {}
        self._rows: dict[int, HeadRow] = {}
        self._wake = asyncio.Event()
        self._asked = 0
        """Rows that the coordinator was asked for and has not leased yet."""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    @property
    def rows_active(self) -> int:
        return len(self._rows)

    async def run(self) -> None:
        """Drive the ring. Raises `LinkLost` or `RingProtocolError` (in an exception group) when it cannot go on."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._drive(), name=f"{self._ring} drive")
            if self._planner is not None:
                tasks.create_task(self._plan(self._planner), name=f"{self._ring} plan")
            if self._proof is not None:
                tasks.create_task(self._proof.committer.run(self._close_chunk), name=f"{self._ring} commit")
            if self._links is not None:
                tasks.create_task(self._collect(self._links.tail), name=f"{self._ring} collect")

    async def add(self, lease: Lease) -> None:
        """Take leased rows. A row that cannot be served is reported at once and disturbs no other."""
        for first in range(0, len(lease.rows), OPENED_TOGETHER):
            some = lease.rows[first : first + OPENED_TOGETHER]
            # Templates and tokenizers take milliseconds a row: not on the loop that feeds the ring.
            for opened in await asyncio.to_thread(open_all, some, lease, self._text):
                self._take_on(opened)
        if self._planner is not None:
            self._planner.rows_left(sum(row.part_left for row in self._rows.values()) + lease.waiting)
        # Not before: rows that are not open yet would pass for room, and be asked for twice.
        self._asked = 0
        self._wake.set()

    def _take_on(self, opened: HeadRow | RowResult) -> None:
        if isinstance(opened, RowResult):
            self._desk.rows_done([opened])
        elif opened.finished and not opened.row.score_prompt:
            self._desk.rows_done([opened.result(int(time.time()))])
        elif not self._scheduler.can_ever_run(opened.row):
            self._desk.rows_done([too_large(opened)])
        else:
            self._rows[opened.row.key] = opened
            self._scheduler.add(opened.row)
            self.prompt_tokens += len(opened.row.prompt)
            if self._planner is not None:
                self._planner.row_started(len(opened.row.prompt), opened.row.most_new, opened.leased.codec)
            self._wake.set()

    def cancel(self, rows: Iterable[int]) -> None:
        """Forget rows; nothing will be reported for them."""
        for key in rows:
            row = self._rows.pop(key, None)
            if row is not None:
                self._scheduler.cancel(row.row)
                self._left()
        self._wake.set()

    def give_back(self, rows: int) -> list[RowLog]:
        """Forget up to `rows` rows and return their token logs for another ring. Those that wait go first, then the
        youngest."""
        # A prompt that is being scored starts anew elsewhere: what was scored is in no log.
        movable = [row for row in self._rows.values() if row.row.sequence < 0 or not row.row.score_prompt]
        movable.sort(key=lambda row: (row.row.sequence >= 0, -row.row.arrival))
        given = movable[: max(0, rows)]
        self.cancel([row.row.key for row in given])
        return [row.log() for row in given]

    def unfinished(self) -> list[RowLog]:
        """The token logs of all rows under way, for the coordinator to lease out again."""
        return [row.log() for row in self._rows.values()]

    def plan_report(self) -> PlanReport | None:
        """The plan and what became of it; None without a planner."""
        return None if self._planner is None else self._planner.report()

    async def _plan(self, planner: Planner) -> None:
        """Follow another plan whenever one is found that fits the ring better, from the next step on."""
        await self._propose(planner)
        while True:
            if await planner.solve_next():
                self._scheduler.apply_plan(planner.plan, planner.costs, planner.latency_s)
                log.info("%s: %s", self._ring, _described(planner.plan))
                await self._propose(planner)
            else:
                self._scheduler.learn(planner.costs, planner.latency_s)
            self._wake.set()

    async def _propose(self, planner: Planner) -> None:
        """Find out which codecs are worth proposing; a request that is open proposes them, too."""
        before = planner.proposed_codecs
        await planner.propose_codecs()
        if self._asked and planner.proposed_codecs is not None and planner.proposed_codecs != before:
            self._desk.want_rows(self._asked, planner.proposed_codecs)
        self._wake.set()

    async def _drive(self) -> None:
        submitted: asyncio.Queue[_Submitted] = asyncio.Queue(STEPS_IN_LINE)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._submit(submitted), name=f"{self._ring} submit")
            tasks.create_task(self._deliver(submitted), name=f"{self._ring} deliver")

    async def _submit(self, submitted: asyncio.Queue[_Submitted]) -> None:
        while True:
            self._ask()
            plan = self._scheduler.next_step()
            for failed in self._scheduler.take_failed():
                self._desk.rows_done([too_large(self._rows.pop(failed.key))])
                self._left()
            if plan is None:
                self._wake.clear()
                await self._rest()
                await self._wake.wait()
                continue
            labels = await self._announce(plan)
            if self._proof is not None and self._proof.fills(plan):
                self._scheduler.skip_to_multiple(CHUNK_STEPS)
            inputs = torch.tensor(plan.token_ids, dtype=torch.int64)
            if plan.tune is not None:
                self._compute.tune(_tune(self._ring, self._epoch, plan.tune))
            work = StepWork(plan.microbatch, plan.released, plan.chunks, inputs)
            computing = self._compute.submit(work)
            hidden_bytes = 0 if self._planner is None else self._planner.hidden_bytes(plan.segments)
            self._under_way[plan.step] = _UnderWay(plan.load, plan.prompt_tokens, hidden_bytes)
            await submitted.put(_Submitted(plan, labels, computing))

    async def _rest(self) -> None:
        """Where nothing is under way, what there is of a chunk is committed to: who knows when the next step is."""
        if self._proof is not None and not self._under_way:
            self._scheduler.skip_to_multiple(CHUNK_STEPS)
            await self._proof.committer.rest()

    async def _close_chunk(self, closed: ChunkClosed) -> None:
        if self._links is not None:
            await self._links.next.send(closed)

    def _ask(self) -> None:
        codecs = (self._scheduler.plan.codec,) if self._planner is None else self._planner.proposed_codecs
        # A batch whose first rows came before the ring knows what to propose would be raw to its end.
        if self._asked or codecs is None:
            return
        # One refill beyond what runs: a row that ends is replaced without a round trip to the coordinator.
        target = self._scheduler.planned_rows * 5 // 4
        room = target - len(self._rows)
        # Asking for a handful at a time would cost a round trip to the coordinator per row.
        if room >= max(1, target // 8):
            self._asked = min(room, MAX_LEASE_ROWS)
            self._desk.want_rows(self._asked, codecs)

    async def _announce(self, plan: StepPlan) -> tuple[RowLabel, ...]:
        """Tell the tail of the rows that are new to it. Returns the labels of those that are paid for."""
        # All before the first send: while one waits for its link, rows of this very step may be cancelled.
        rows = [self._rows[row.key] for row in plan.admitted]
        admits = [row.admit(self._ring, self._epoch) for row in rows]
        labels = [] if self._proof is None else [row.label() for row in rows]
        for admit in admits:
            if self._links is None:
                self._compute.engine.admit(admit)
            else:
                await self._links.tail.send(admit)
        return tuple(label for label in labels if label is not None)

    async def _deliver(self, submitted: asyncio.Queue[_Submitted]) -> None:
        proof = self._proof
        while True:
            item = await submitted.get()
            plan, computed = item.plan, await item.computing
            output = computed.output
            if proof is not None:
                proof.begin(plan, item.labels)
            if self._links is None:
                if proof is not None:
                    await proof.drew(plan, output.drawn)
                answer = (output.drawn, output.scored, output.failed, (computed.timing,))
                self._take(Sampled(self._ring, self._epoch, plan.step, plan.microbatch, *answer))
                continue
            if plan.tune is not None:
                self._links.next.coalesce = plan.tune.coalesce
                await self._links.next.send(_tune(self._ring, self._epoch, plan.tune))
            assert output.hidden is not None
            tokens, hidden = output.hidden.shape
            step = Step(
                self._ring,
                self._epoch,
                plan.step,
                plan.microbatch,
                plan.released,
                plan.chunks,
                plan.segments,
                str(output.hidden.dtype).removeprefix("torch."),
                tokens,
                hidden,
                (computed.timing_on(self._links.next),),
                item.labels,
            )
            packed = await pack_payload(output.hidden, step.segments)
            if proof is not None:
                # Before it is sent: once it is back, the chunk may end with it.
                outputs = await plain_outputs(output.hidden, step.segments)
                await proof.left(plan, packed_runs(packed, step.segments), outputs)
            await self._links.next.send(step, packed)

    async def _collect(self, tail: Link) -> None:
        while True:
            frame = await tail.receive()
            sampled = frame.message
            if not isinstance(sampled, Sampled | ChunkClosed) or (sampled.ring, sampled.epoch) != (
                self._ring,
                self._epoch,
            ):
                raise RingProtocolError(
                    f"{tail.peer_id} sent {type(sampled).__name__} where Sampled of {self._ring} belongs"
                )
            if isinstance(sampled, Sampled):
                self._take(sampled)
            elif self._proof is not None:
                self._proof.tail_closed(sampled)

    def _take(self, sampled: Sampled) -> None:
        owners = {row.row.sequence: row for row in self._rows.values()} if sampled.scored or sampled.failed else {}
        for token in sampled.scored:
            if (owner := owners.get(token.sequence)) is not None:
                owner.scored[token.position] = token
        try:
            grown = self._scheduler.complete(sampled.step, sampled.microbatch, sampled.drawn)
        except ValueError as error:
            raise RingProtocolError(str(error)) from error
        if (step := self._under_way.pop(sampled.step, None)) is None:
            raise RingProtocolError(f"step {sampled.step} came back before it was computed")
        if self._proof is not None:
            self._proof.returned(sampled)
        self._learn(sampled, step)
        results = [self._give_up(owners[f.sequence], f.reason) for f in sampled.failed if f.sequence in owners]
        rows = self._rows
        for row, token in grown:
            head_row = rows[row.key]
            if head_row.finished:  # a row that is only scored draws one token that nobody asked for
                results.append(self._end(head_row))
                continue
            self.completion_tokens += 1
            if head_row.push(token):
                results.append(self._end(head_row))
        if results:
            self._desk.rows_done(results)
        self._wake.set()

    def _learn(self, sampled: Sampled, step: _UnderWay) -> None:
        """Let the planner know what the step took."""
        if self._planner is None:
            return
        compute_s = [timing.compute_s for timing in sampled.timings]
        waited_s = [timing.swap_s for timing in sampled.timings]
        rtt_s = [timing.rtt_s for timing in sampled.timings]
        times_s = (*compute_s, *waited_s, *rtt_s)
        if len(compute_s) != self._planner.stages or not all(0 <= seconds < MOST_STEP_S for seconds in times_s):
            raise RingProtocolError(f"step {sampled.step} came back with the timings {sampled.timings}")
        self._planner.returned(
            ReturnedStep(
                now_s=self._clock(),
                load=step.load,
                prompt=step.prompt_tokens,
                drawn=len(sampled.drawn),
                hidden_bytes=step.hidden_bytes,
                compute_s=compute_s,
                waited_s=waited_s,
                rtt_s=rtt_s,
                running=self._scheduler.decoding,
                microbatches=self._scheduler.microbatches,
            )
        )

    def _left(self) -> None:
        """A row left before its end."""
        if self._planner is not None:
            self._planner.row_left()

    def _give_up(self, head_row: HeadRow, reason: str) -> RowResult:
        del self._rows[head_row.row.key]
        self._scheduler.cancel(head_row.row)
        self._left()
        error = RequestError("", f"the model cannot go on: {reason}", "model_error", status=500)
        return error_result(head_row.leased, head_row.lease, head_row.fence, error)

    def _end(self, head_row: HeadRow) -> RowResult:
        """The result of a row that has finished."""
        row = head_row.row
        del self._rows[row.key]
        self._scheduler.finish(row)
        if self._planner is not None:
            self._planner.row_ended(row.most_new, len(row.generated))
        return head_row.result(int(time.time()))


def _described(plan: RingPlan) -> str:
    return (
        f"{plan.microbatches} microbatches of {plan.rows_per_microbatch} rows, steps of {plan.step_budget_s:.3g} s, "
        f"swapped pages {plan.swap_pages}"
    )


def _tune(ring: str, epoch: int, plan: RingPlan) -> Tune:
    return Tune(ring, epoch, plan.microbatches, plan.swap_pages, plan.prefetch_depth, plan.coalesce)
