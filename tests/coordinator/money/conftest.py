"""A coordinator that pays: real store, leases, HTTP and settlement; nodes at pipes with real keys and signatures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient, TestServer
from book import Book

from deserve_coordinator.api.application import build_application
from deserve_coordinator.api.batches import BatchesApi
from deserve_coordinator.api.files import FilesApi
from deserve_coordinator.api.payments import PaymentsApi
from deserve_coordinator.api.settlement import SettlementApi
from deserve_coordinator.blobs import Blobs
from deserve_coordinator.fleet import Policy
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.leases import Leases
from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.money.desk import PaymentDesk
from deserve_coordinator.money.policy import MoneyPolicy
from deserve_coordinator.money.quotes import Quoting
from deserve_coordinator.money.settlement import Settlement
from deserve_coordinator.money.tariff import RowSize
from deserve_coordinator.planner import ModelShape
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_coordinator.supervisor import Supervisor
from deserve_ledger.binding import bind
from deserve_ledger.calls import OpenJob, RegisterNode
from deserve_ledger.commitments import root_of
from deserve_ledger.eip712 import sign
from deserve_ledger.identifiers import Work, job_id, ring_key
from deserve_ledger.keystore import Key
from deserve_ledger.messages import Voucher, WorkReceipt
from deserve_network.control_messages import (
    CONTROL,
    Assign,
    Begin,
    CostFit,
    Hello,
    KvPool,
    Lease,
    LeaseRequest,
    LinkMeasure,
    ModelRef,
    Offer,
    Refused,
    RowResult,
    RowsDone,
    RowsStored,
    StageReady,
    Welcome,
)
from deserve_network.errors import ChannelClosed
from deserve_network.identity import generate_identity
from deserve_network.money_messages import Account, CreditNote, Prices, Receipts, ReceiptsStored, SignedReceipt

API_KEY = "sk-test"
COMPLETIONS = "/v1/completions"
PROMPT, MOST, DRAWN = 5, 9, 4
LAYERS = 4


def size_of(endpoint: str, body: Mapping[str, Any]) -> RowSize:
    return RowSize(PROMPT, MOST, MOST)


class Pipe:
    """The coordinator's end of a control channel."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.told: asyncio.Queue[Any] = asyncio.Queue()

    def trust(self) -> None:
        pass

    async def send(self, message: object) -> None:
        self.told.put_nowait(CONTROL.decode(CONTROL.encode(message)))

    async def receive(self) -> object:
        message = await self.said.get()
        if message is None:
            raise ChannelClosed("the test hung up")
        return message

    async def close(self) -> None:
        self.said.put_nowait(None)
        self.told.put_nowait(None)


@dataclass
class Node:
    """A registered node that computes nothing and signs for it. As a head it also answers rows."""

    book: Book
    name: str
    prices: Prices = field(default_factory=lambda: Prices(300_000, 900_000))
    stake: int = 1000
    operator: Key = field(default_factory=Key.generate)
    receipt_key: Key = field(default_factory=Key.generate)
    lazy: bool = False
    """Takes rows and answers none."""

    def __post_init__(self) -> None:
        self.identity = generate_identity()
        self.binding = bind(self.book.domain, self.operator.address, self.identity.secret, self.receipt_key, 0)
        self.node_id = self.binding.node_id
        self.credits: list[CreditNote] = []
        self.refusals: list[Refused] = []
        self.leases: list[Lease] = []
        self.peers: list[Node] = []
        self.place: tuple[str, int, int] = ("", 0, 0)
        self.layers = 0
        self.reports = 0
        self.stored: list[int] = []
        self.changed = asyncio.Event()

    async def register(self) -> None:
        await self.book.fund(self.operator, self.stake)
        b = self.binding
        call = RegisterNode(b.peer_key, b.receipt_key, self.stake, b.nonce, b.receipt_signature)
        await self.book.submit(self.operator, call)

    @property
    def account(self) -> Account:
        b = self.binding
        return Account(b.operator, b.receipt_key, b.nonce, b.receipt_signature, b.peer_signature)

    async def live(self, pipe: Pipe, **offer: Any) -> None:
        self.pipe = pipe
        peer_id = self.identity.peer_id
        say = pipe.said.put_nowait
        say(Hello(1, self.name, (f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id}",), 1 << 30, "cpu"))
        while (message := await pipe.told.get()) is not None:
            match message:
                case Welcome():
                    self.welcome = message
                    paid = {"account": self.account, "prices": self.prices} | offer
                    say(Offer("digest", 0.01, "", 1 << 20, 0, 64, **paid))
                case Assign():
                    self.place = (message.ring, message.epoch, message.stage)
                    mine = message.stages[message.stage]
                    self.layers = mine.last - mine.first
                    say(ready(message))
                case Begin():
                    say(LeaseRequest(message.ring, message.epoch, 4))
                case Lease():
                    self.leases.append(message)
                    if not self.lazy:
                        self.answer(message)
                case RowsStored():
                    say(LeaseRequest(*self.place[:2], 4))
                case CreditNote():
                    self.credits.append(message)
                case ReceiptsStored():
                    self.stored.append(message.report)
                case Refused():
                    self.refusals.append(message)
            self.changed.set()

    def answer(self, lease: Lease, drawn: int = DRAWN) -> None:
        self.reports += 1
        results = [
            RowResult(
                row.row,
                lease.lease,
                lease.fence,
                json.dumps({"choices": [{"text": "x", "token_ids": [1] * drawn}]}).encode(),
                200,
                PROMPT,
                drawn,
            )
            for row in lease.rows
        ]
        self.pipe.said.put_nowait(RowsDone(*self.place[:2], self.reports, tuple(results)))
        for node in (self, *self.peers):
            node.sign(lease, drawn)

    def sign(self, lease: Lease, drawn: int = DRAWN, **more: Any) -> None:
        """This node's receipts for a lease, one chunk long, one for each job."""
        self.reports += 1
        jobs = dict.fromkeys(row.work.job_id for row in lease.rows if row.work is not None)
        made = tuple(self.receipt(lease, job, drawn, **more) for job in jobs)
        self.pipe.said.put_nowait(Receipts(self.reports, made))

    def receipt(self, lease: Lease, job: bytes, drawn: int, salt: bytes = b"", **more: Any) -> SignedReceipt:
        ring, epoch, stage = self.place
        keys = [row.row for row in lease.rows if row.work is not None and row.work.job_id == job]
        units = self.layers * len(keys) * (PROMPT + drawn - 1)
        roots = [root_of(bytes([k]) * 32, salt.ljust(32, b"\0")) for k in (stage, stage + 1)]
        work = Work(job, ring_key(ring), epoch, lease.lease, 0, stage, 0)
        signed = WorkReceipt(work.work_id, self.node_id, *roots, units)
        fields = {
            "signature": sign(self.receipt_key.secret, self.book.domain, signed),
            "wire_root": bytes([stage + 1]) * 32,
            "print_root": salt.ljust(32, b"\0"),
        }
        place = (job, ring, epoch, lease.lease, 0, stage, 0, self.node_id, *roots, units)
        return SignedReceipt(*place, **(fields | more), first_row=min(keys), last_row=max(keys), rows=len(keys))

    def hang_up(self) -> None:
        self.pipe.said.put_nowait(None)


def ready(assign: Assign) -> StageReady:
    pools, cost = (KvPool(0, 0, 64),), CostFit(0.1, 0.002, 0.0, 0.0, 0.0, 16)
    link = LinkMeasure(0.0, 0.0, 0.0, 0.0)
    return StageReady(assign.ring, assign.epoch, assign.stage, 16, 1024, pools, 0.0, 0.0, cost, link, "m", 1, 1, True)


@dataclass
class Market:
    """`until` waits for a condition by looking again after everything that is ready has run."""

    folder: Path
    policy: MoneyPolicy
    book: Book
    key: Key
    payer: Key
    session: Key
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    jobs_opened: int = 0

    async def start(self) -> None:
        self.clock = 1_000_000.0
        self.store = SqliteStore(self.folder / "coordinator.db")
        await self.store.release_all()
        self.blobs = Blobs(self.folder / "files")
        now = self.now
        self.ledger: Any = self.book.ledger(self.key)
        self.leases = Leases(
            self.store,
            lambda holder, message: self.supervisor.send(holder, message),
            clock=now,
            on_finished=lambda: self.jobs.wake(),
            patience_s=0.0,
        )
        self.settlement = Settlement(
            self.ledger,
            self.key,
            self.store.money,
            self.policy,
            clock=now,
            send=lambda node_id, note: self.supervisor.send_credit(node_id, note),
            nodes=lambda: self.supervisor.accounts(),
            on_open=self.leases.wake,
        )
        shape = ModelShape(LAYERS, 64)
        rings = Policy(ModelRef("demo", "", "digest", "float32"), shape, LinkShapes(), 2, "r", settle_s=5.0)
        self.supervisor = Supervisor(rings, self.leases, clock=now, treasury=self.settlement, tick_s=0.01)
        self.jobs = Jobs(
            self.store, self.blobs, size_of, clock=now, on_work=self.leases.wake, forget=self.leases.forget, poll_s=0.05
        )
        quoting = Quoting(
            self.blobs,
            size_of,
            layers=LAYERS,
            margin_ppm=self.policy.margin_ppm,
            nodes=self.supervisor.accounts,
        )
        desk = PaymentDesk(self.settlement, quoting)
        apis = [
            FilesApi(self.store, self.blobs, now, 1 << 20),
            BatchesApi(self.store, self.jobs, now, "demo", desk),
            PaymentsApi(self.store, desk),
            SettlementApi(self.settlement),
        ]
        server = TestServer(build_application(apis, API_KEY))
        self.client = TestClient(server, headers={"Authorization": f"Bearer {API_KEY}"})
        await self.client.start_server()
        parts = (self.jobs.run(), self.leases.run(0.02), self.supervisor.run(), self.settlement.run(0.02))
        self.tasks = [asyncio.create_task(part) for part in parts]

    def now(self) -> float:
        return self.clock

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.client.close()
        self.store.close()

    def join(self, node: Node, **offer: Any) -> None:
        pipe = Pipe(node.identity.peer_id)
        self.tasks.append(asyncio.create_task(self.supervisor.serve(pipe)))
        self.tasks.append(asyncio.create_task(node.live(pipe, **offer)))

    async def ring(self, *nodes: Node) -> None:
        """Have these nodes form a ring; the first is its head."""
        for node in nodes:
            await node.register()
            self.join(node)
            await self.until(lambda node=node: node.node_id in self.supervisor.accounts())
        for node in nodes:
            node.peers = [other for other in nodes if other is not node]
        await self.until(lambda: any(ring.serving for ring in self.supervisor.fleet.rings.values()))

    async def until(self, condition: Callable[[], Any | Awaitable[Any]]) -> None:
        async with asyncio.timeout(20):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.002)

    async def upload(self, rows: int) -> str:
        lines = [
            {"custom_id": f"r{i}", "method": "POST", "url": COMPLETIONS, "body": {"model": "demo", "prompt": "x"}}
            for i in range(rows)
        ]
        form = FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", "\n".join(map(json.dumps, lines)).encode(), filename="rows.jsonl")
        response = await self.client.post("/v1/files", data=form)
        return str((await response.json())["id"])

    async def open_job(self, budget: int, *, deadline_s: int | None = None, coordinator: bytes | None = None) -> str:
        """As a payer does before submission; returns the job's id in hexadecimal."""
        self.jobs_opened += 1
        salt = bytes([self.jobs_opened]) * 32
        await self.book.fund(self.payer, budget)
        deadline = self.book.now_s + 200_000 if deadline_s is None else deadline_s
        call = OpenJob(salt, coordinator or self.key.address, self.session.address, budget, deadline)
        await self.book.submit(self.payer, call)
        return "0x" + job_id(self.payer.address, salt).hex()

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        response = await self.client.post(path, json=body)
        return response.status, await response.json()

    async def get(self, path: str) -> dict[str, Any]:
        response = await self.client.get(path)
        assert response.status == 200, await response.text()
        value: dict[str, Any] = await response.json()
        return value

    async def submit(self, rows: int, **deserve: Any) -> dict[str, Any]:
        status, batch = await self.request(rows, **deserve)
        assert status == 200, batch
        return batch

    async def request(self, rows: int, **deserve: Any) -> tuple[int, dict[str, Any]]:
        body = {"input_file_id": await self.upload(rows), "endpoint": COMPLETIONS, "completion_window": "24h"}
        return await self.post("/v1/batches", body | {"deserve": deserve})

    async def pay(self, batch_id: str) -> dict[str, Any]:
        """As `deserve pay` does: look what is due, sign it with the session key, hand it in."""
        payment = await self.get(f"/v1/batches/{batch_id}/payment")
        if payment["due"] == "0":
            return payment
        status, after = await self.post(f"/v1/batches/{batch_id}/payment", self.voucher(payment))
        assert status == 200, after
        return after

    def voucher(self, payment: dict[str, Any], key: Key | None = None, **more: Any) -> dict[str, Any]:
        due = payment["next"] | more
        root = bytes.fromhex(due["results_root"][2:])
        job = bytes.fromhex(payment["job_id"][2:])
        signed = Voucher(job, int(due["cumulative"]), due["seq"], root)
        return due | {"signature": "0x" + sign((key or self.session).secret, self.book.domain, signed).hex()}

    async def status(self, batch_id: str) -> str:
        return str((await self.get(f"/v1/batches/{batch_id}"))["status"])

    async def finished(self, batch_id: str) -> None:
        async def over() -> bool:
            return await self.status(batch_id) in ("completed", "expired", "cancelled", "failed")

        await self.until(over)


@pytest.fixture
def policy() -> MoneyPolicy:
    return MoneyPolicy(margin_ppm=50_000, reserve_units=10**6, anchor_s=0.0, epoch_s=0.0)


@pytest.fixture
async def market(tmp_path: Path, policy: MoneyPolicy) -> AsyncIterator[Market]:
    book = Book(tmp_path)
    market = Market(tmp_path, policy, book, Key.generate(), Key.generate(), Key.generate())
    await book.fund(market.key, 10**9)
    await market.start()
    yield market
    await market.stop()
    book.close()


@pytest.fixture
def node_class() -> type[Node]:
    return Node
