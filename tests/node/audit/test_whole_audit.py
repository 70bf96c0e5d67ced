"""Whole audits: a ring that commits, signs and keeps evidence, a coordinator's desk, and clerks at real streams."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rings
import torch
from eth_keys.datatypes import PrivateKey
from recorded import stage_engine
from rings import JOB, LAYERS, Ring, load_text, rows_of

from deserve_coordinator.audits.assignment import Candidate
from deserve_coordinator.audits.canary import CanaryKey
from deserve_coordinator.audits.case import Subject
from deserve_coordinator.audits.desk import AuditDesk, Swarm
from deserve_coordinator.audits.drawing import Drawing, Randomness
from deserve_coordinator.audits.evidence import Expected
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.prosecution import Prosecution
from deserve_coordinator.audits.spool import Spool
from deserve_coordinator.money.tariff import RowSize, StageTerms
from deserve_coordinator.store.money_records import NewEscrow, ReceiptRecord
from deserve_coordinator.store.records import FinishedRow, NewBatch, NewRow
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_ledger.calls import Deposit, RegisterNode
from deserve_ledger.commitments import digest
from deserve_ledger.eip712 import sign
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.embedded.ledger import EmbeddedLedger
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.identifiers import Work, node_id, ring_key
from deserve_ledger.messages import BindNode
from deserve_ledger.records import ChallengeRecord, Terms
from deserve_models import ModelFiles
from deserve_network.audit_messages import AUDIT, AUDIT_PROTOCOL, DrawnFrom, EvidenceHeader, EvidenceRequest, Summons
from deserve_network.channel import Channel
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.stream import Stream
from deserve_node.audit.attendance import attend, clerk_for
from deserve_node.audit.calibration import Workload, calibrate
from deserve_node.audit.exhibit import exhibit
from deserve_node.audit.juror import Juror, exhibit_fault
from deserve_node.audit.profile import ToleranceProfile
from deserve_node.audit.votes import Votes
from deserve_node.audit.worker import AuditWorker
from deserve_node.background import BackgroundThread
from deserve_node.proof.receipts import ReceiptKey
from deserve_node.ring.compute import Compute

STAGES = 4
CPU = torch.device("cpu")
NODES = [bytes([stage]) * 32 for stage in range(STAGES)]
"""Of the ring's stages, as the ring's receipts have them."""
OTHERS = [bytes([100 + k]) * 32 for k in range(3)]


@pytest.fixture(scope="session")
def tolerances(tiny_files: ModelFiles) -> ToleranceProfile:
    ids = torch.randint(0, 256, (8, 24), generator=torch.Generator().manual_seed(1))
    stages = [(first, first + 2) for first in range(0, LAYERS, 2)]
    workload = Workload(ids, decoded=8, batches=(1, 4), codecs=("raw",))
    return calibrate(tiny_files, stages, dtype="float32", device=CPU, workload=workload)


def computes(files: ModelFiles, cheats: dict[int, str]) -> list[Compute]:
    made = []
    for stage in range(STAGES):
        engine = stage_engine(files, 2 * stage, 2 * stage + 2, "float32", cheat=cheats.get(stage, ""))
        made.append(Compute(engine, stage=stage))
    return made


class Swarmed:
    """A coordinator's desk over its store, and hosts of seven nodes: four made the ring, three are spare."""

    def __init__(self, folder: Path, files: ModelFiles, tolerances: ToleranceProfile) -> None:
        self.nodes = list(NODES)
        self.ledgers: dict[bytes, EmbeddedLedger] = {}
        self.jurors: dict[bytes, Juror] = {}
        self.folder = folder
        self.files = files
        self.tolerances = tolerances
        self.store = SqliteStore(folder / "coordinator.db")
        self.candidates: dict[str, Candidate] = {}
        self.out: dict[bytes, str] = {}
        self.hosts: list[Host] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.threads: list[BackgroundThread] = []
        self.computes: list[Compute] = []
        self.ring: Ring | None = None
        self.desk: AuditDesk

    async def serve(self, rows: int, cheats: dict[int, str]) -> dict[int, Any]:
        """Compute a batch in a ring, deliver it and hand in what its stages signed."""
        place = self.folder / "proofs"
        place.mkdir()
        self.computes = computes(self.files, cheats)
        self.ring = Ring(self.computes, load_text(self.files), place)
        escrow = NewEscrow("b", JOB, b"p" * 20, b"s" * 20, 10**12, 10**9, 10**12, 10**6, 10**6, 0, LAYERS, audited=True)
        await self.store.create_batch(NewBatch("b", "/v1/completions", "m", "f", "24h", 1, 10**9, None, "d"), escrow)
        size = RowSize(20, 40, 40)
        await self.store.insert_rows("b", [NewRow(i, f"r{i}", b"{}", size=size) for i in range(rows)])
        await self.store.begin_batch("b", rows, 2)
        terms = [StageTerms(node, 2 * k, 2 * k + 2, 100, 100) for k, node in enumerate(self.nodes)]
        record = await self.store.lease_rows("r/1", {"b": rows}, 1 << 20, (), terms)
        assert record is not None
        leased = rows_of(rows, lease=record.lease)
        keys = [row.key for row in record.rows]
        results = await self.ring.serve(with_keys(leased, keys))
        await self.store.finish_rows(
            "r/1",
            [
                FinishedRow(key, record.lease, record.fence, 200, r.body, r.prompt_tokens, r.completion_tokens)
                for key, r in results.items()
            ],
        )
        for stage in range(STAGES):
            await self.store.money.add_receipts([as_record(signed) for signed in self.ring.receipts(stage)])
        anchor = await self.store.money.open_anchor()
        assert anchor is not None
        await self.store.money.anchor_settled(anchor.number, 7)
        return results

    async def open(self) -> None:
        async def beacon(position: int) -> bytes | None:
            return b"b" * 32

        async def operator_of(node: bytes) -> bytes:
            return node[:20]

        async def expected(subject: Subject) -> Expected:
            codec, tokens = await self.store.audits.row_expected(subject)
            return Expected(codec, "float32", subject.last == LAYERS, tokens)

        numbers = itertools.count(1)

        def fresh(size: int) -> bytes:
            return next(numbers).to_bytes(size, "big")

        self.spool = Spool(self.folder / "evidence")
        policy = AuditPolicy(newcomer_ppm=1_000_000, canary_ppm=1_000_000)
        self.desk = AuditDesk(
            self.store.audits,
            self.spool,
            Drawing(self.store.audits, policy, Randomness(beacon, fresh), operator_of, lambda: 1000.0),
            Swarm(self.candidates.get, self.out.__setitem__, self.out.__setitem__, expected),
            policy,
            canaries=CanaryKey(b"k" * 32),
            fresh=fresh,
            clock=lambda: 1000.0,
        )
        host = await Host.start(generate_identity(), ("/ip4/127.0.0.1/tcp/0",))
        self.hosts.append(host)

        async def audit(stream: Stream) -> None:
            await self.desk.serve(Channel(stream, AUDIT))

        host.handle(AUDIT_PROTOCOL, audit)
        assert self.ring is not None
        thread = BackgroundThread("audit", niceness=10)
        self.threads.append(thread)
        judge = self.judge = AuditWorker(self.files, self.tolerances, thread, device=CPU, memory_bytes=1 << 30)
        for number, node in enumerate([*self.nodes, *OTHERS]):
            own = await Host.start(generate_identity())
            self.hosts.append(own)
            ring = "r/1" if node in self.nodes else ""
            self.candidates[own.peer_id] = Candidate(own.peer_id, node, node[:20], f"machine {number}", ring)
            store = self.ring.proofs[min(number, STAGES - 1)].evidence
            clerk = clerk_for(store, judge, node_id=node, dtype="float32", juror=self.juror(node))
            self.tasks.append(asyncio.create_task(attend(own, host.addresses[0], clerk)))

    def juror(self, node: bytes) -> Juror | None:
        """Who votes for the node, where its operator is on the ledger."""
        ledger = self.ledgers.get(node)
        if ledger is None:
            return None
        votes = Votes(self.folder / "votes" / node.hex())
        return self.jurors.setdefault(node, Juror(ledger, node, self.judge, votes))

    async def until(self, reached: Any) -> None:
        async with asyncio.timeout(120):
            while not reached():
                await self.desk.step()
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for host in self.hosts:
            await host.close()
        for thread in self.threads:
            thread.close()
        if self.ring is not None:
            self.ring.close()
        for compute in self.computes:
            compute.close()
        self.store.close()


def with_keys(lease: Any, keys: list[int]) -> Any:
    """The lease with the store's row keys, in its rows and in what they are booked under."""
    rows = tuple(
        replace(row, row=key, work=replace(row.work, row=key)) for row, key in zip(lease.rows, keys, strict=True)
    )
    return replace(lease, rows=rows)


def as_record(signed: Any) -> ReceiptRecord:
    place = (signed.epoch, signed.lease, signed.attempt, signed.stage, signed.chunk)
    work_id = Work(signed.job_id, ring_key(signed.ring), *place).work_id
    values = {name: getattr(signed, name) for name in ReceiptRecord.__dataclass_fields__ if name != "work_id"}
    return ReceiptRecord(work_id=work_id, **values)


@pytest.fixture
async def swarmed(tmp_path: Path, tiny_files: ModelFiles, tolerances: ToleranceProfile) -> AsyncIterator[Swarmed]:
    made = Swarmed(tmp_path, tiny_files, tolerances)
    yield made
    await made.close()


async def test_an_honest_ring_passes_every_audit_and_its_auditors_every_canary(swarmed: Swarmed) -> None:
    await swarmed.serve(3, {})
    await swarmed.open()
    await swarmed.until(lambda: swarmed.desk.outcomes["passed"] == 3 * STAGES and swarmed.desk.open == 0)
    assert swarmed.desk.outcomes["held"] > 0
    assert swarmed.desk.outcomes["caught"] == 0
    assert swarmed.out == {}
    assert await swarmed.desk.undecided("b") == 0


async def test_a_stage_that_skips_a_layer_is_refuted_by_three_and_no_other_is(swarmed: Swarmed) -> None:
    await swarmed.serve(2, {1: "skip-layer"})
    await swarmed.open()
    await swarmed.until(lambda: bool(swarmed.out))
    assert list(swarmed.out) == [NODES[1]]
    assert "refuted: stage 1 of r/1" in swarmed.out[NODES[1]]
    assert "error of a fingerprint" in swarmed.out[NODES[1]]
    assert [one.pending for one in await swarmed.store.backlog()] == [2]


COORDINATOR, PAYER = b"\x51" * 32, b"\x52" * 32
TERMS = Terms(3600, 3600, 7201, 60, 3600, 1, 600, 600, 1000, 100)


class Court:
    """An embedded ledger on which a coordinator and the ring's operators have what they need."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1_000_000.0
        self.access = OwnedJournal(Journal(folder / "journal.sqlite", b"\x50" * 32, TERMS, clock=lambda: self.now_s))
        self.folder = folder
        self.owner = self.of(b"\x50" * 32)
        self.coordinator = self.of(COORDINATOR)

    def of(self, key: bytes) -> EmbeddedLedger:
        return EmbeddedLedger(self.access, key, self.folder / f"{key.hex()}.json")

    async def fund(self, ledger: EmbeddedLedger, amount: int) -> None:
        await self.owner.submit(Issue(ledger.account, amount))
        await ledger.submit(Deposit(amount))

    async def enrol(self, stage: int) -> tuple[EmbeddedLedger, ReceiptKey]:
        """The operator of a stage's node, registered with as much stake as counts in a draw."""
        operator, receipt = self.of(bytes([0x60 + stage]) * 32), bytes([0x70 + stage]) * 32
        peer, address = bytes([stage]) * 32, PrivateKey(receipt).public_key.to_canonical_address()
        await self.fund(operator, 16_000)
        signature = sign(receipt, operator.domain, BindNode(operator.account, peer, 0))
        await operator.submit(RegisterNode(peer, address, 16_000, 0, signature))
        return operator, ReceiptKey(receipt, operator.domain, node_id(operator.account, peer))


async def test_a_refuted_stage_is_challenged_and_loses_its_stake_by_three_votes(
    swarmed: Swarmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    court = Court(tmp_path)
    await court.fund(court.coordinator, 1_000)
    enrolled = [await court.enrol(stage) for stage in range(STAGES)]
    monkeypatch.setattr(rings, "key_of", lambda stage: enrolled[stage][1])
    swarmed.nodes = [key.node_id for _, key in enrolled]
    swarmed.ledgers = {key.node_id: ledger for ledger, key in enrolled}
    await swarmed.serve(1, {1: "skip-layer"})
    await swarmed.open()
    prosecution = Prosecution(court.coordinator, swarmed.store.audits, swarmed.spool, swarmed.desk.summon)
    await swarmed.until(lambda: bool(swarmed.out))
    await prosecution.step()
    court.now_s += TERMS.draw_delay_blocks + 1  # a journal counts a block a second
    await prosecution.step()
    await prosecution.step()
    jurors = [juror for node, juror in swarmed.jurors.items() if node != swarmed.nodes[1]]
    await swarmed.until(lambda: all(juror.voted == 1 for juror in jurors))
    court.now_s += TERMS.commit_period_s
    for juror in jurors:
        await juror.reveal()
    await prosecution.step()
    await prosecution.step()
    assert prosecution.slashed == [swarmed.nodes[1]]
    record = await court.coordinator.node(swarmed.nodes[1])
    assert (record.stake, record.slashed) == (0, True)
    # 30 % to who challenged, with its bond back; the job's payer is unknown to this ledger: that share is burnt.
    assert await court.coordinator.balance(court.coordinator.account) == 1_000 + 16_000 * 3 // 10
    assert await swarmed.store.audits.to_prosecute() == []


async def test_no_juror_finds_an_honest_stage_guilty_whatever_it_is_shown(
    swarmed: Swarmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    court = Court(tmp_path)
    enrolled = [await court.enrol(stage) for stage in range(STAGES)]
    monkeypatch.setattr(rings, "key_of", lambda stage: enrolled[stage][1])
    swarmed.nodes = [key.node_id for _, key in enrolled]
    await swarmed.serve(1, {})
    assert swarmed.ring is not None
    signed = {stage: swarmed.ring.receipts(stage) for stage in range(STAGES)}
    request = EvidenceRequest(b"a" * 16, 1, "r", 1, 1, 2, 4, JOB, 1, 1, DrawnFrom(bytes(32), 7, bytes(32), 1_000_000))
    shown = exhibit(swarmed.ring.proofs[1].evidence, request, dtype="float32")
    body = b"".join(part.data for part in shown.parts())
    header, accused = shown.header, signed[1][0]
    previous = tuple(receipt.print_root for receipt in signed[0])
    work = Work(JOB, ring_key("r"), 1, accused.lease, accused.attempt, 1, accused.chunk)

    def fault(header: EvidenceHeader, body: bytes, row: int = 1, **more: Any) -> str | None:
        summons = replace(Summons(1, row, header, tuple(signed[1]), previous), **more)
        record = ChallengeRecord(
            node_id=swarmed.nodes[1], work_id=work.work_id, evidence=digest(AUDIT.encode(header) + body)
        )
        return exhibit_fault(summons, memoryview(body), record)

    assert fault(header, body) is None
    evidence = header.evidence
    assert fault(replace(header, evidence=replace(evidence, first=3)), body) is not None
    assert fault(replace(header, evidence=replace(evidence, last=5)), body) is not None
    assert fault(header, bytes([body[0] ^ 1]) + body[1:]) is not None
    assert fault(header, body[:-1] + bytes([body[-1] ^ 1])) is not None
    assert fault(header, body, row=2) is not None
    assert fault(header, body, receipts=tuple(signed[2])) is not None
    assert fault(header, body, receipts=()) is not None
    summons = Summons(1, 1, header, tuple(signed[1]), previous)
    other = ChallengeRecord(node_id=swarmed.nodes[1], work_id=work.work_id, evidence=bytes(32))
    assert exhibit_fault(summons, memoryview(body), other) is not None
