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
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.leases import Leases
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_network.control_messages import Lease, LeasedRow, RowResult

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
    inbox: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    served: list[int] = field(default_factory=list)

    async def serve(self) -> None:
        self.leases.open(self.holder)
        while True:
            self.leases.request(self.holder, self.rows)
            message = await self.inbox.get()
            if isinstance(message, Lease):
                await self.leases.finish(self.holder, [answer(message, row) for row in message.rows])
                self.served += [row.row for row in message.rows]


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

    def add_ring(self, name: str = "ring-a/1", rows: int = 4) -> Ring:
        ring = Ring(self.leases, name, rows)
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
