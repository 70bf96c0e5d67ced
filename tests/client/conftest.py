"""A small coordinator in the test's own process: real HTTP, made-up results, faults on demand."""

import asyncio
import hashlib
import io
import json
import os
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deserve_client.api import CoordinatorClient
from deserve_client.settings import Settings

KEY = "sk-test"


@dataclass
class FakeCoordinator:
    """State of the API, and switches: what it should do wrong next."""

    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    statuses: deque = field(default_factory=lambda: deque(["validating", "in_progress", "completed"]))
    """What the next reads of a batch find; the last one stays."""
    failed_rows: int = 0
    faults: list[dict] = field(default_factory=list)
    refuse: deque = field(default_factory=deque)
    """HTTP statuses to answer next, whatever is asked."""
    with_digest: bool = True
    with_ranges: bool = True
    with_network: bool = True
    cut_after: deque = field(default_factory=deque)
    """Byte counts after which the next downloads break off."""
    wrong_content: bool = False
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    hold_creation: bool = False
    """Never answer a request to create a batch."""
    creating: asyncio.Event = field(default_factory=asyncio.Event)
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self.gate], client_max_size=1 << 30)
        application.add_routes(
            [
                web.post("/v1/files", self.upload),
                web.get("/v1/files/{id}/content", self.content),
                web.post("/v1/batches", self.create),
                web.get("/v1/batches", self.list),
                web.get("/v1/batches/{id}", self.retrieve),
                web.post("/v1/batches/{id}/cancel", self.cancel),
                web.get("/v1/network", self.network),
            ]
        )
        return application

    @web.middleware
    async def gate(self, request, handler):
        self.requests.append((request.method, request.path, request.headers.get("Range", "")))
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return problem(401, "incorrect API key")
        if self.refuse:
            await request.read()
            return problem(self.refuse.popleft(), "as the test wants it")
        return await handler(request)

    async def upload(self, request):
        form = await request.multipart()
        purpose = await form.next()
        assert (purpose.name, await purpose.text()) == ("purpose", "batch")
        part = await form.next()
        assert part.name == "file"
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = bytes(await part.read())
        return web.json_response({"id": file_id, "filename": part.filename, "bytes": len(self.files[file_id])})

    async def content(self, request):
        data = self.files.get(request.match_info["id"])
        if data is None:
            return problem(404, "no such file")
        headers = {"x-content-sha256": hashlib.sha256(data).hexdigest()} if self.with_digest else {}
        if self.wrong_content:
            data = b"x" * len(data)
        start = 0
        if self.with_ranges and "Range" in request.headers:
            start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return web.Response(status=416, headers=headers)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
        response.content_length = len(data) - start
        await response.prepare(request)
        if self.cut_after:
            await response.write(data[start : start + self.cut_after.popleft()])
            request.transport.close()
            return response
        await response.write(data[start:])
        return response

    async def create(self, request):
        self.creating.set()
        if self.hold_creation:
            await asyncio.Event().wait()
        body = await request.json()
        key = request.headers["Idempotency-Key"]
        if key not in self.by_key:
            batch_id = f"batch_{len(self.batches)}"
            rows = self.files[body["input_file_id"]].splitlines()
            self.batches[batch_id] = body | {
                "id": batch_id,
                "status": "validating",
                "created_at": 1700000000,
                "rows": rows,
            }
            self.by_key[key] = batch_id
        return web.json_response(self.view(self.by_key[key]))

    def view(self, batch_id: str) -> dict:
        batch = {name: value for name, value in self.batches[batch_id].items() if name != "rows"}
        rows = [json.loads(row) for row in self.batches[batch_id]["rows"]]
        done = len(rows) if batch["status"] == "completed" else 0
        failed = self.failed_rows if done else 0
        batch["request_counts"] = {"total": len(rows), "completed": done - failed, "failed": failed}
        batch["usage"] = {"input_tokens": 5 * done, "output_tokens": 7 * done, "total_tokens": 12 * done}
        if batch["status"] == "failed":
            batch["errors"] = {"object": "list", "data": self.faults}
        if done > failed:
            results = [{"custom_id": row["custom_id"], "response": {"status_code": 200}} for row in rows[failed:]]
            batch["output_file_id"] = self.store(f"output-{batch_id}", results)
        if failed:
            batch["error_file_id"] = self.store(
                f"errors-{batch_id}", [{"custom_id": row["custom_id"]} for row in rows[:failed]]
            )
        return batch

    def store(self, file_id: str, lines: list[dict]) -> str:
        self.files[file_id] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return file_id

    async def retrieve(self, request):
        batch_id = request.match_info["id"]
        if batch_id not in self.batches:
            return problem(404, f"no such batch: {batch_id}")
        if self.batches[batch_id]["status"] != "cancelled":
            self.batches[batch_id]["status"] = self.statuses.popleft() if len(self.statuses) > 1 else self.statuses[0]
        self.polled.set()
        return web.json_response(self.view(batch_id))

    async def list(self, request):
        limit = int(request.query["limit"])
        ids = sorted(self.batches, reverse=True)
        if after := request.query.get("after"):
            ids = ids[ids.index(after) + 1 :]
        return web.json_response({"data": [self.view(i) for i in ids[:limit]], "has_more": len(ids) > limit})

    async def cancel(self, request):
        self.batches[request.match_info["id"]]["status"] = "cancelled"
        return web.json_response(self.view(request.match_info["id"]))

    async def network(self, request):
        if not self.with_network:
            return problem(404, "not found")
        stage = {"node": "ann", "peer_id": "p", "layers": [0, 4], "busy_fraction": 0.5, "kv_used_fraction": 0.25}
        return web.json_response(
            {"model": "m", "nodes": [], "rings": [{"ring": "r1", "completion_tokens": 9, "stages": [stage]}]}
        )


def problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "x", "param": None, "code": None}}, status=status)


@pytest.fixture
async def coordinator():
    fake = FakeCoordinator()
    server = TestServer(fake.application())
    await server.start_server()
    fake.base_url = str(server.make_url("/v1"))
    yield fake
    await server.close()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
async def client(coordinator, slept):
    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    async with CoordinatorClient(Settings(coordinator.base_url, KEY), sleep=sleep) as client:
        yield client


def batch_line(custom_id: str, **changes) -> dict:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


@pytest.fixture
def batch_path(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(batch_line(f"row-{i}")) + "\n" for i in range(3)))
    return path


@dataclass
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def start_deserve(coordinator, tmp_path):
    """Start the real command as a process of its own, pointed at the fake coordinator."""

    async def start(
        *arguments: object, stdout: int | io.FileIO = asyncio.subprocess.PIPE, **environment: str
    ) -> asyncio.subprocess.Process:
        settings = {"DESERVE_BASE_URL": coordinator.base_url, "DESERVE_API_KEY": KEY, "HOME": str(tmp_path)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "deserve_client.main", *map(str, arguments),
            stdout=stdout, stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in (os.environ | settings | environment).items() if value},
        )  # fmt: skip

    return start


@pytest.fixture
def deserve(start_deserve):
    """Run the real command to its end."""

    async def run(*arguments: object, **environment: str) -> Finished:
        process = await start_deserve(*arguments, **environment)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    return run
