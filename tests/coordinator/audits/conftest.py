"""Delivered, signed and anchored rows in a real store, nodes at pipes, and time that the test moves."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from deserve_coordinator.audits.assignment import Candidate
from deserve_coordinator.audits.canary import CanaryKey
from deserve_coordinator.audits.case import Case, Subject
from deserve_coordinator.audits.desk import AuditDesk, Swarm
from deserve_coordinator.audits.drawing import Drawing, Randomness
from deserve_coordinator.audits.evidence import Expected
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.spool import Spool
from deserve_coordinator.money.tariff import RowSize, StageTerms
from deserve_coordinator.store.money_records import NewEscrow, ReceiptRecord
from deserve_coordinator.store.records import FinishedRow, NewBatch, NewRow
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_ledger.commitments import RowPart, digest, hash_pair, print_root_of, print_seed, root_of, row_leaf
from deserve_ledger.draw import verdict_commitment
from deserve_ledger.identifiers import Work, ring_key
from deserve_ledger.merkle import MerkleTree
from deserve_network.audit_messages import (
    AUDIT,
    PRINT_BYTES,
    AuditCommit,
    AuditReveal,
    AuditTask,
    ChunkProof,
    ChunkSpan,
    EvidenceHeader,
    EvidencePart,
    EvidenceRequest,
    NoEvidence,
    RevealRequest,
    RowEvidence,
    TailEvidence,
)
from deserve_network.errors import ChannelClosed
from deserve_network.ring_messages import Sampling

JOB = b"j" * 32
RING = "ring"
LAYERS = 6
STAGES = 3
PROMPT, COMPLETION = 5, 4
TOKENS = PROMPT + COMPLETION - 1
TOKEN_BYTES = 8


def node_id(name: str) -> bytes:
    return name.encode().ljust(32, b"\0")


def operator(name: str) -> bytes:
    return b"op-" + name.encode().ljust(17, b"\0")


@dataclass
class Stage:
    """What one stage holds of every row: inputs, fingerprints, paths. Bytes are made up; only hashes fit together."""

    index: int
    lease: int
    rows: list[int]
    epoch: int
    came: dict[int, bytes] = field(default_factory=dict)
    sent: dict[int, bytes] = field(default_factory=dict)
    prints: dict[int, bytes] = field(default_factory=dict)
    previous_print_root: bytes = bytes(32)

    @property
    def is_tail(self) -> bool:
        return self.index == STAGES - 1

    @property
    def work(self) -> Work:
        return Work(JOB, ring_key(RING), self.epoch, self.lease, 0, self.index, 0)

    def part(self, row: int, start: int = 0, count: int = TOKENS) -> RowPart:
        return RowPart(JOB, row, self.lease, 0, start, count)

    def tree(self, what: dict[int, bytes], start: int = 0, count: int = TOKENS) -> MerkleTree:
        leaves = [row_leaf(self.part(row, start, count), digest(what[row])) for row in self.rows]
        return MerkleTree(leaves, hash_pair)

    @property
    def wire(self) -> MerkleTree:
        return self.tree(self.sent, PROMPT, COMPLETION) if self.is_tail else self.tree(self.sent)

    @property
    def printed(self) -> MerkleTree:
        return self.tree(self.prints) if not self.is_tail else MerkleTree([])

    @property
    def print_root(self) -> bytes:
        return print_root_of(2 * self.index, 2 * self.index + 2, self.printed.root)

    def receipt(self, owner: str) -> ReceiptRecord:
        wire, printed = self.wire.root, self.print_root
        return ReceiptRecord(
            self.work.work_id,
            node_id(owner),
            JOB,
            RING,
            self.epoch,
            self.lease,
            0,
            self.index,
            0,
            root_of(self.tree(self.came).root, self.previous_print_root),
            root_of(wire, printed),
            TOKENS * len(self.rows) * 2,
            0,
            b"s" * 65,
            wire,
            printed,
        )

    def evidence(self, audit: bytes, row: int) -> tuple[EvidenceHeader, bytes]:
        place = self.rows.index(row)
        seed = print_seed(self.work.work_id, self.wire.root)
        tail = None
        if self.is_tail:
            tail = TailEvidence(Sampling(), tuple(range(PROMPT)), (), struct.unpack("<4i", self.sent[row]))
        codec, token_bytes = ("ids", 4) if self.index == 0 else ("raw", TOKEN_BYTES)
        evidence = RowEvidence(
            2 * self.index,
            2 * self.index + 2,
            codec,
            "float32",
            token_bytes,
            (ChunkSpan(0, 0, TOKENS, seed),),
            tail,
        )
        proof = ChunkProof(
            0,
            0,
            TOKENS,
            self.tree(self.came).proof(place),
            self.wire.proof(place) if self.is_tail else (),
            () if self.is_tail else self.printed.proof(place),
        )
        return EvidenceHeader(audit, 0, evidence, (proof,)), self.came[row] + self.prints.get(row, b"")


def computed(lease: int, rows: list[int], epoch: int) -> list[Stage]:
    """The three stages of a ring after one chunk."""
    stages = [Stage(index, lease, rows, epoch) for index in range(STAGES)]
    for row in rows:
        content = f"{row}".encode()
        for stage in stages:
            size = 4 if stage.index == 0 else TOKEN_BYTES
            stage.came[row] = b"".join(digest(content + bytes([stage.index, t]))[:size] for t in range(TOKENS))
            if not stage.is_tail:
                stage.prints[row] = b"".join(
                    (digest(content + b"print" + bytes([stage.index, t])) * 2)[:PRINT_BYTES] for t in range(TOKENS)
                )
        stages[0].came[row] = struct.pack(f"<{TOKENS}i", *range(TOKENS))
        for stage, following in itertools.pairwise(stages):
            stage.sent[row] = following.came[row]
        stages[-1].sent[row] = struct.pack("<4i", *range(PROMPT, PROMPT + COMPLETION))
    for stage, following in itertools.pairwise(stages):
        following.previous_print_root = stage.print_root
    return stages


class Pipe:
    """The desk's end of an audit stream."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.said: asyncio.Queue[object] = asyncio.Queue()
        self.told: asyncio.Queue[object] = asyncio.Queue()

    def trust(self) -> None:
        pass

    async def send(self, message: object) -> None:
        self.told.put_nowait(AUDIT.decode(AUDIT.encode(message)))

    async def receive(self) -> object:
        message = await self.said.get()
        if message is None:
            raise ChannelClosed("the test hung up")
        return AUDIT.decode(AUDIT.encode(message))

    async def close(self) -> None:
        self.said.put_nowait(None)


@dataclass
class Node:
    """A node: shows what it has, and judges by `verdict(evidence, body)`."""

    name: str
    pipe: Pipe
    show: Callable[[EvidenceRequest], tuple[EvidenceHeader, bytes] | None]
    verdict: Callable[[RowEvidence, bytes], bool]
    asked: list[EvidenceRequest] = field(default_factory=list)
    tasks: list[tuple[AuditTask, bytes]] = field(default_factory=list)
    verdicts: dict[bytes, bool] = field(default_factory=dict)
    silent: bool = False
    mute_auditor: bool = False

    async def live(self) -> None:
        waiting: AuditTask | None = None
        body = b""
        while True:
            message: Any = await self.pipe.told.get()
            say = self.pipe.said.put_nowait
            match message:
                case EvidenceRequest():
                    self.asked.append(message)
                    if self.silent:
                        continue
                    shown = self.show(message)
                    if shown is None:
                        say(NoEvidence(message.audit, "the disk is full"))
                        continue
                    header, content = shown
                    say(header)
                    for offset in range(0, len(content), 100):
                        say(EvidencePart(message.audit, offset, content[offset : offset + 100]))
                case AuditTask():
                    waiting, body = message, b""
                case EvidencePart():
                    assert waiting is not None
                    body += message.data
                    if len(body) == waiting.evidence.body_bytes:
                        self.tasks.append((waiting, body))
                        if self.mute_auditor:
                            continue
                        passed = self.verdicts[waiting.audit] = self.verdict(waiting.evidence, body)
                        say(AuditCommit(waiting.audit, self._commitment(waiting.audit, passed)))
                case RevealRequest():
                    passed = self.verdicts[message.audit]
                    where = -1 if passed else 3
                    say(AuditReveal(message.audit, passed, 0, where, "" if passed else "token 3 is off", b"s" * 32))

    def _commitment(self, audit: bytes, passed: bool) -> bytes:
        return verdict_commitment(audit, passed=passed, error_ppm=0, position=-1 if passed else 3, salt=b"s" * 32)


class Bench:
    """A desk over a real store. Stages 0, 1, 2 are the nodes "a", "b", "c"; others join by `join`."""

    def __init__(self, folder: Path, policy: AuditPolicy) -> None:
        self.folder = folder
        self.policy = policy
        self.now_s = 1000.0
        self.store = SqliteStore(folder / "coordinator.db")
        self.candidates: dict[str, Candidate] = {}
        self.nodes: dict[str, Node] = {}
        self.out: dict[bytes, str] = {}
        self.rested: dict[bytes, str] = {}
        self.leases: dict[int, list[Stage]] = {}
        self.beacons: dict[int, bytes] = {}
        self.cheats: set[tuple[int, int]] = set()
        """(stage, row) whose outputs do not follow from their inputs."""
        self.tasks: list[asyncio.Task[None]] = []
        self.numbers = itertools.count(1)
        self.desk = self._desk()

    def _desk(self) -> AuditDesk:
        async def beacon(position: int) -> bytes | None:
            return self.beacons.get(position)

        async def operator_of(node: bytes) -> bytes:
            return operator(node.rstrip(b"\0").decode())

        async def expected(subject: Subject) -> Expected:
            return Expected("raw", "float32", subject.last == LAYERS, TOKENS)

        def fresh(size: int) -> bytes:
            return next(self.numbers).to_bytes(size, "big")

        swarm = Swarm(self.candidates.get, self.out.__setitem__, self.rested.__setitem__, expected)
        drawing = Drawing(self.store.audits, self.policy, Randomness(beacon, fresh), operator_of, lambda: self.now_s)
        return AuditDesk(
            self.store.audits,
            Spool(self.folder / "evidence"),
            drawing,
            swarm,
            self.policy,
            canaries=CanaryKey(b"k" * 32),
            fresh=fresh,
            clock=lambda: self.now_s,
        )

    async def deliver(self, rows: int, holder: str = "ring/1", owners: str = "abc") -> list[Stage]:
        """A batch of `rows` rows (the first time), leased, computed by the ring and delivered; nothing is signed."""
        if not self.leases:
            escrow = NewEscrow(
                "b", JOB, b"p" * 20, b"s" * 20, 10**12, 10**6, 10**12, 10**6, 10**6, 0, LAYERS, audited=True
            )
            new = NewBatch("b", "/v1/completions", "demo", "file", "24h", 1, 50_000, None, "digest")
            await self.store.create_batch(new, escrow)
            size = RowSize(PROMPT, COMPLETION, COMPLETION)
            await self.store.insert_rows("b", [NewRow(i, f"r{i}", b"{}", size=size) for i in range(rows)])
            await self.store.begin_batch("b", rows, 1000)
        terms = [StageTerms(node_id(name), 2 * k, 2 * k + 2, 100, 100) for k, name in enumerate(owners)]
        record = await self.store.lease_rows(holder, {"b": rows}, 1 << 20, (), terms)
        assert record is not None
        results = [
            FinishedRow(row.key, record.lease, record.fence, 200, b"{}", PROMPT, COMPLETION) for row in record.rows
        ]
        await self.store.finish_rows(holder, results)
        stages = computed(record.lease, sorted(row.key for row in record.rows), int(holder.rpartition("/")[2]))
        self.leases[record.lease] = stages
        return stages

    async def sign(self, stages: list[Stage], owners: str = "abc") -> int:
        """Receipts of all stages, under an anchor; returns its position."""
        receipts = [stage.receipt(owner) for stage, owner in zip(stages, owners, strict=False)]
        await self.store.money.add_receipts(receipts)
        anchor = await self.store.money.open_anchor()
        assert anchor is not None
        await self.store.money.anchor_settled(anchor.number, 100 + anchor.number)
        return 100 + anchor.number

    def join(self, name: str, *, hardware: str = "cpu", ring: str = "") -> Node:
        pipe = Pipe(name)
        self.candidates[name] = Candidate(name, node_id(name), operator(name), hardware, ring)

        def show(request: EvidenceRequest) -> tuple[EvidenceHeader, bytes] | None:
            return self.leases[request.lease][request.stage].evidence(request.audit, request.row)

        node = self.nodes[name] = Node(name, pipe, show, self.honest)
        self.tasks += [asyncio.create_task(node.live()), asyncio.create_task(self.desk.serve(pipe))]
        return node

    def honest(self, evidence: RowEvidence, body: bytes) -> bool:
        """What a replay would say: whether these very bytes are those that an honest stage has."""
        for stages in self.leases.values():
            stage = stages[evidence.first // 2]
            for row in stage.rows:
                header, content = stage.evidence(b"x" * 16, row)
                if (header.evidence, content) == (evidence, body):
                    return (stage.index, row) not in self.cheats
        return False

    async def until(self, reached: Callable[[], bool]) -> None:
        """Step without time passing until `reached`."""
        async with asyncio.timeout(20):
            while True:
                await self.desk.step()
                if reached():
                    return
                await asyncio.sleep(0.002)

    async def decided(self, audits: int) -> Counter[str]:
        """Outcomes, once so many audits and canaries are decided."""
        await self.until(lambda: self.desk.outcomes.total() >= audits)
        return self.desk.outcomes

    async def cases(self) -> list[Case]:
        return await self.store.audits.cases("b")

    async def restart(self) -> None:
        """As after kill -9: what is on disk at this moment is all there is."""
        left = self.folder / "left"
        shutil.copytree(self.folder, left)
        await self.stop()
        self.folder = left
        self.store = SqliteStore(self.folder / "coordinator.db")
        self.desk = self._desk()
        self.nodes.clear()
        await self.desk.load()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        self.store.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, replace(AuditPolicy(), newcomer_ppm=1_000_000, canary_ppm=0))
    yield made
    await made.stop()
