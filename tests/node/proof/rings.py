"""Whole rings in one process, with commitments: real heads, stages and tails over pipes that carry encoded messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from types import SimpleNamespace

import torch

from deserve_ledger.eip712 import Domain
from deserve_network.control_messages import Lease, LeasedRow
from deserve_network.link import Frame
from deserve_network.money_messages import WorkLabel
from deserve_network.ring_messages import RING, Sampled
from deserve_node.engine import Engine, KvCache
from deserve_node.proof.committer import StagePosition
from deserve_node.proof.head import HeadCommitments
from deserve_node.proof.receipts import ReceiptKey
from deserve_node.proof.work_proofs import WorkProofs
from deserve_node.ring.compute import Compute
from deserve_node.ring.desk import HeadLinks
from deserve_node.ring.head import Head
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.stage import Stage, Tail
from deserve_node.shard.loading import load_shard
from deserve_plan.cost import StageCost
from deserve_plan.plan import RingPlan
from deserve_text.tokenizer import TextModel

DOMAIN = Domain(1337, b"c" * 20)
JOB = b"j" * 32
LAYERS = 8
CPU = torch.device("cpu")


def key_of(stage):
    return ReceiptKey(bytes([stage + 1]) * 32, DOMAIN, bytes([stage]) * 32)


class Pipe:
    """One direction of a link. `tamper(message, payload)` gives what arrives instead."""

    rtt_s = 0.0
    coalesce = 1

    def __init__(self, peer_id):
        self.peer_id = peer_id
        self.tamper = lambda message, payload: (message, payload)
        self.passed = []
        self._frames = asyncio.Queue()

    async def send(self, message, payload=()):
        data = RING.encode(message)
        arriving, body = self.tamper(RING.decode(data), bytearray().join(payload))
        self.passed.append(arriving)
        self._frames.put_nowait(Frame(arriving, memoryview(body)))

    async def receive(self):
        return await self._frames.get()


class Duplex:
    def __init__(self, outward, inward):
        self.peer_id = outward.peer_id
        self.rtt_s = 0.0
        self.coalesce = 1
        self.send = outward.send
        self.receive = inward.receive


class Desk:
    def __init__(self):
        self.results = {}
        self.expected = 0
        self.complete = asyncio.Event()

    def want_rows(self, rows, codecs):
        """The test leases what it wants to."""

    def rows_done(self, results):
        self.results.update((result.row, result) for result in results)
        if len(self.results) >= self.expected:
            self.complete.set()


def stages_of(tiny_files, count, *, kv_bytes=4 << 20):
    """A `Compute` for each stage."""
    share = LAYERS // count
    made = []
    for stage in range(count):
        shard = load_shard(tiny_files, stage * share, (stage + 1) * share, dtype=torch.float32, device=CPU)
        cache = KvCache(shard.kv_layers, kv_bytes=kv_bytes, dtype=torch.float32, device=CPU)
        made.append(Compute(Engine(shard, cache), stage=stage))
    return made


class Ring:
    """`computes` linked up; receipts and evidence of stage n are below `directory`/n."""

    def __init__(self, computes, text, directory, *, epoch=1, microbatches=2, committing=True, max_tokens=64):
        count = len(computes)
        self.computes, self.epoch = computes, epoch
        self.hops = [Pipe(f"peer-{hop}") for hop in range(count - 1)]
        """From each stage to the next; named after the stage that sends."""
        self.tokens, self.admits = Pipe(f"peer-{count - 1}"), Pipe("peer-0")
        self.proofs, self.committers = [], []
        if committing:
            for stage, compute in enumerate(computes):
                place = directory / str(stage)
                place.mkdir(exist_ok=True)
                proofs = WorkProofs(place, evidence_bytes=1 << 30)
                proofs.employ(key_of(stage))
                self.proofs.append(proofs)
                shard = compute.engine.shard
                previous = f"peer-{stage - 1}" if stage else ""
                layers = LAYERS // count
                position = StagePosition(
                    "r", epoch, stage, stage * layers, (stage + 1) * layers, shard.dtype, shard.hidden_size, previous
                )
                self.committers.append(proofs.committer(position))
        committers = self.committers or [None] * count
        self.desk = Desk()
        self.scheduler = Scheduler(
            KvBudget([compute.engine.cache.shapes for compute in computes]),
            RingPlan(microbatches, 8, float(max_tokens), (0,) * count),
            [StageCost(0.0, 1.0)],
            plan_for=lambda rows, more: RingPlan(microbatches, 8, float(max_tokens), (0,) * count),
            max_rows=64,
            max_tokens=max_tokens,
        )
        links = None
        if count > 1:
            tail_end = SimpleNamespace(
                peer_id=self.tokens.peer_id, send=self.admits.send, receive=self.tokens.receive, rtt_s=0.0
            )
            links = HeadLinks(self.hops[0], tail_end)
        tail = self.tokens.peer_id if count > 1 else ""
        proof = None if committers[0] is None else HeadCommitments(committers[0], tail)
        self.settled = (lambda: True) if proof is None else (lambda: proof.settled)
        self.head = Head(
            "r",
            epoch,
            compute=computes[0],
            scheduler=self.scheduler,
            text=text,
            desk=self.desk,
            links=links,
            proof=proof,
        )
        self.parts = [self.head]
        for stage in range(1, count - 1):
            self.parts.append(
                Stage(
                    "r",
                    epoch,
                    compute=computes[stage],
                    previous=self.hops[stage - 1],
                    following=self.hops[stage],
                    committer=committers[stage],
                )
            )
        if count > 1:
            head_end = SimpleNamespace(peer_id="peer-0", send=self.tokens.send, receive=self.admits.receive, rtt_s=0.0)
            self.parts.append(
                Tail(
                    "r",
                    epoch,
                    compute=computes[-1],
                    previous=self.hops[-1],
                    head=head_end,
                    committer=committers[-1],
                )
            )

    async def serve(self, *leases):
        """Rows until all are done and signed for; returns results by row. Raises what ends a part, in a group."""
        self.desk.expected = sum(len(lease.rows) for lease in leases)
        running = [asyncio.create_task(part.run()) for part in self.parts]
        complete = asyncio.create_task(self.finished())
        try:
            for lease in leases:
                await self.head.add(lease)
            async with asyncio.timeout(60):
                await asyncio.wait([*running, complete], return_when=asyncio.FIRST_COMPLETED)
            for part in running:
                if part.done():
                    part.result()
        finally:
            for task in (*running, complete):
                task.cancel()
            await asyncio.gather(*running, complete, return_exceptions=True)
            for committer in self.committers:
                await committer.finish()
            for compute in self.computes:
                compute.forget(range(self.scheduler.sequences))
        return self.desk.results

    async def finished(self):
        """Until all rows are done and every stage has signed for every chunk."""
        await self.desk.complete.wait()
        while True:
            if all(committer.settled for committer in self.committers) and self.settled():
                return
            await asyncio.sleep(0.005)

    def tail_ids(self, row):
        """The token ids that the tail drew for a row, by sequence in order of admission where nothing was preempted."""
        drawn = [token for message in self.tokens.passed if isinstance(message, Sampled) for token in message.drawn]
        return [token.token for token in drawn if token.sequence == row]

    def receipts(self, stage):
        """All signed receipts of a stage, in order."""
        return [receipt for report in self.proofs[stage].book.unstored() for receipt in report.receipts]

    def close(self):
        for proofs in self.proofs:
            proofs.close()


def rows_of(count, *, lease=1, attempt=0, codec="raw", paid=True, max_tokens=12, prompt=20, generated=None):
    """Greedy rows with prompts of different lengths."""
    rows = []
    for row in range(count):
        body = {
            "model": "tiny",
            "prompt": [1 + (row * 7 + place) % 250 for place in range(prompt + row)],
            "temperature": 0,
            "max_tokens": max_tokens + row,
            "ignore_eos": True,
        }
        label = WorkLabel(JOB, row, lease, attempt) if paid else None
        rows.append(
            LeasedRow(
                row, "/v1/completions", json.dumps(body).encode(), row, (generated or {}).get(row, ()), codec, label
            )
        )
    return Lease(lease, lease, 300.0, tuple(rows))


def by_booking(receipts):
    found = defaultdict(dict)
    for receipt in receipts:
        found[receipt.chunk, receipt.job_id, receipt.lease, receipt.attempt][receipt.stage] = receipt
    return found


def texts(results):
    return {row: json.loads(result.body)["choices"][0]["text"] for row, result in results.items()}


@contextlib.contextmanager
def closing(ring):
    try:
        yield ring
    finally:
        ring.close()


def load_text(tiny_files):
    return TextModel.load(tiny_files.directory)
