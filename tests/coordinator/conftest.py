"""A coordinator without a network: real store, real jobs, real leases, real HTTP; the ring answers in-process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient, TestServer

from deserve_coordinator.api.application import build_application
from deserve_coordinator.api.batches import BatchesApi
from deserve_coordinator.api.files import FilesApi
from deserve_coordinator.api.models import ModelsApi
from deserve_coordinator.blobs import Blobs
from deserve_coordinator.errors import RowRefused
from deserve_coordinator.fleet import Policy
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.leases import Leases
from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.planner import ModelShape
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_coordinator.supervisor import Supervisor
from deserve_network.control_messages import (
    CONTROL,
    Assign,
    Begin,
    CostFit,
    Hello,
    KvPool,
    Lease,
    LeasedRow,
    LeaseRequest,
    LinkMeasure,
    ModelRef,
    Offer,
    Release,
    RowLog,
    RowResult,
    RowsDone,
    RowsReturned,
    RowsStored,
    StageReady,
)
from deserve_network.errors import ChannelClosed
from deserve_network.ring_messages import SampledToken

MODEL = "demo"
KEY = "sk-test"
CHAT = "/v1/chat/completions"


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def check(endpoint: str, body: Mapping[str, Any]) -> None:
    """Stands for `row_check`: the real one needs a model directory."""
    if body.get("model") != MODEL:
        raise RowRefused("no such model", param="model", code="model_not_found", status=404)
    if not body.get("messages"):
        raise RowRefused("must not be empty", param="messages", code="out_of_range")


def answer(lease: Lease, row: LeasedRow) -> RowResult:
    said = json.loads(row.body)["messages"][-1]["content"]
    body = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": said.upper()}}]}
    return RowResult(row.row, lease.lease, lease.fence, json.dumps(body, indent=1).encode(), 200, 3, 2)


@dataclass
class Ring:
    """A head that answers every row of every lease it is given."""

    leases: Leases
    holder: str = "ring-a/1"
    rows: int = 4
    proposed: tuple[str, ...] = ()
    inbox: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    served: list[int] = field(default_factory=list)
    codecs: set[str] = field(default_factory=set)

    async def serve(self) -> None:
        self.leases.open(self.holder)
        while True:
            self.leases.request(self.holder, self.rows, self.proposed)
            message = await self.inbox.get()
            if isinstance(message, Lease):
                await self.leases.finish(self.holder, [answer(message, row) for row in message.rows])
                self.served += [row.row for row in message.rows]
                self.codecs |= {row.codec for row in message.rows}


def line(custom_id: str, content: str = "hello", **more: Any) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]} | more
    value = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(value).encode() + b"\n"


@dataclass
class Service:
    folder: Path
    store: SqliteStore
    blobs: Blobs
    jobs: Jobs
    leases: Leases
    clock: Clock
    client: TestClient[Any, Any]
    rings: dict[str, Ring]
    tasks: list[asyncio.Task[None]]
    line = staticmethod(line)

    async def restart(self) -> Service:
        await stop_service(self)
        return await start_service(self.folder, self.clock)

    def add_ring(self, name: str = "ring-a/1", rows: int = 4, proposed: tuple[str, ...] = ()) -> Ring:
        ring = Ring(self.leases, name, rows, proposed)
        self.rings[name] = ring
        self.tasks.append(asyncio.create_task(ring.serve()))
        return ring

    async def upload(self, data: bytes) -> str:
        form = FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", data, filename="rows.jsonl")
        response = await self.client.post("/v1/files", data=form)
        assert response.status == 200, await response.text()
        return str((await response.json())["id"])

    async def create(self, file_id: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | more
        response = await self.client.post("/v1/batches", json=body, headers=headers)
        value: dict[str, Any] = await response.json()
        return value

    async def submit(self, data: bytes, **more: Any) -> dict[str, Any]:
        return await self.create(await self.upload(data), **more)

    async def until(self, batch_id: str, *statuses: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                response = await self.client.get(f"/v1/batches/{batch_id}")
                batch: dict[str, Any] = await response.json()
                if batch["status"] in statuses:
                    return batch
                await asyncio.sleep(0.005)

    async def lines(self, file_id: str) -> list[dict[str, Any]]:
        response = await self.client.get(f"/v1/files/{file_id}/content")
        assert response.status == 200
        return [json.loads(line) for line in (await response.text()).splitlines()]


async def start_service(folder: Path, clock: Clock) -> Service:
    store = SqliteStore(folder / "coordinator.db")
    await store.release_all()
    blobs = Blobs(folder / "files")
    rings: dict[str, Ring] = {}

    def send(holder: str, message: object) -> None:
        if holder in rings:
            rings[holder].inbox.put_nowait(message)

    leases = Leases(store, send, clock=clock, on_finished=lambda: jobs.wake(), patience_s=0.0)
    jobs = Jobs(
        store,
        blobs,
        check,
        clock=clock,
        on_work=lambda: leases.wake(),
        forget=lambda held: leases.forget(held),
        poll_s=0.05,
    )
    apis = [FilesApi(store, blobs, clock, 1 << 20), BatchesApi(store, jobs, clock, MODEL), ModelsApi(MODEL, 1, 64)]
    client = TestClient(TestServer(build_application(apis, KEY)), headers={"Authorization": f"Bearer {KEY}"})
    await client.start_server()
    tasks = [asyncio.create_task(jobs.run()), asyncio.create_task(leases.run(0.05))]
    return Service(folder, store, blobs, jobs, leases, clock, client, rings, tasks)


async def stop_service(service: Service) -> None:
    for task in service.tasks:
        task.cancel()
    await asyncio.gather(*service.tasks, return_exceptions=True)
    await service.client.close()
    service.store.close()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    running = await start_service(tmp_path, Clock())
    yield running
    await stop_service(running)


class PipeChannel:
    """The coordinator's end of a control channel; the test puts what the node says and reads what it is told."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.said: asyncio.Queue[object] = asyncio.Queue()
        self.told: asyncio.Queue[object] = asyncio.Queue()
        self.closed = False
        self.trusted = False

    def trust(self) -> None:
        self.trusted = True

    async def send(self, message: object) -> None:
        CONTROL.encode(message)
        self.told.put_nowait(message)

    async def receive(self) -> object:
        message = await self.said.get()
        if message is None:
            raise ChannelClosed("the test hung up")
        return message

    async def close(self) -> None:
        self.closed = True
        self.said.put_nowait(None)


class FakeNode:
    """A node as the coordinator meets it. As a head it answers leases, unless `lazy`."""

    def __init__(self, channel: Any, name: str, *, memory: int = 1 << 30, lazy: bool = False) -> None:
        self.channel = channel
        self.name = name
        self.memory = memory
        self.lazy = lazy
        self.heard: list[Any] = []
        self.changed = asyncio.Event()
        self.leases: list[Lease] = []
        self.done: list[RowsDone] = []

    def hello(self, peer_id: str, **more: Any) -> Hello:
        fields = {
            "version": 1,
            "name": self.name,
            "addresses": (f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id}",),
            "memory_bytes": self.memory,
            "device": "cpu",
            "token": "join",
        }
        return Hello(**(fields | more))

    @staticmethod
    def offer(digest: str = "digest") -> Offer:
        return Offer(digest, 0.01, "", 1 << 20, 0, 64)

    async def live(self, send: Any, receive: Any) -> None:
        """React like a node until the channel ends."""
        reports = 0
        try:
            while True:
                message = await receive()
                self.heard.append(message)
                self.changed.set()
                match message:
                    case Assign():
                        ready = StageReady(
                            message.ring,
                            message.epoch,
                            message.stage,
                            16,
                            1024,
                            (KvPool(0, 0, 64),),
                            0.0,
                            0.0,
                            CostFit(0.1, 0.002, 0.0, 0.0, 0.0, 16),
                            LinkMeasure(0.0, 0.0, 0.0, 0.0),
                            "m",
                            1,
                            1,
                            True,
                        )
                        await send(ready)
                    case Begin():
                        self.ring, self.epoch = message.ring, message.epoch
                        await send(LeaseRequest(self.ring, self.epoch, 4))
                    case Lease():
                        self.leases.append(message)
                        if not self.lazy:
                            reports += 1
                            results = tuple(answer(message, row) for row in message.rows)
                            await send(RowsDone(self.ring, self.epoch, reports, results))
                    case RowsStored():
                        await send(LeaseRequest(self.ring, self.epoch, 4))
                    case Release() if self.leases and self.lazy:
                        lease = self.leases[-1]
                        logs = tuple(
                            RowLog(row.row, lease.lease, lease.fence, (SampledToken(0, 5, 7),)) for row in lease.rows
                        )
                        await send(RowsReturned(message.ring, message.epoch, logs))
        except ChannelClosed:
            self.changed.set()

    async def hears(self, kind: type) -> Any:
        """Wait for a message of this kind."""
        async with asyncio.timeout(20):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Swarm:
    """A supervisor over the service's store, with nodes at pipes."""

    service: Service
    supervisor: Supervisor
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def join(self, name: str, *, first: object = None, offer: object = None, **more: Any) -> FakeNode:
        channel = PipeChannel(name)
        node = FakeNode(channel, name, **more)
        self.tasks.append(asyncio.create_task(self.supervisor.serve(channel)))
        channel.said.put_nowait(first or node.hello(name))
        channel.said.put_nowait(offer or node.offer())

        async def send(message: object) -> None:
            channel.said.put_nowait(message)

        self.tasks.append(asyncio.create_task(node.live(send, channel.told.get)))
        return node

    def leave(self, node: FakeNode) -> None:
        node.channel.said.put_nowait(None)


@pytest.fixture
def policy() -> Policy:
    model = ModelRef(MODEL, "", "digest", "float32")
    return Policy(model, ModelShape(4, 64), LinkShapes(), 2, "r", settle_s=5.0, load_deadline_s=60)


@pytest.fixture
async def swarm(service: Service, policy: Policy) -> AsyncIterator[Swarm]:
    supervisor = Supervisor(policy, service.leases, clock=service.clock, join_token="join", tick_s=0.01)
    service.leases._send = supervisor.send
    service.leases._on_stuck = supervisor.stuck
    running = Swarm(service, supervisor, [asyncio.create_task(supervisor.run())])
    yield running
    for task in running.tasks:
        task.cancel()
    await asyncio.gather(*running.tasks, return_exceptions=True)


@pytest.fixture
def node_class() -> type[FakeNode]:
    return FakeNode
