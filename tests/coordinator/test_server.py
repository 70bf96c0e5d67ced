"""The whole coordinator as a process has it: real HTTP, real libp2p nodes, the unmodified openai client."""

from __future__ import annotations

import asyncio
import io
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from deserve_coordinator.config import CoordinatorConfig
from deserve_coordinator.errors import AddressInUse, RowRefused
from deserve_coordinator.server import ServedModel, run_coordinator
from deserve_network.channel import Channel
from deserve_network.control_messages import CONTROL, CONTROL_PROTOCOL, ModelRef
from deserve_network.errors import ChannelClosed
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_process.errors import DataInUse, SecretUnusable

CHAT = "/v1/chat/completions"


def check(endpoint: str, body: Mapping[str, Any]) -> None:
    if "top_z" in body:
        raise RowRefused("not supported", param="top_z", code="unsupported_parameter")


MODEL = ServedModel(ModelRef("demo", "", "digest", "float32"), 4, 64, check)


def config(folder: Path, **more: Any) -> CoordinatorConfig:
    return CoordinatorConfig(**({"model": "demo", "data": folder, "http": "127.0.0.1:0", "ring_size": 2} | more))


class LibP2PNode:
    """A fake node over a real host."""

    def __init__(self, fake: Any, host: Host, channel: Channel, task: asyncio.Task[None]) -> None:
        self.fake, self.host, self.channel, self.task = fake, host, channel, task

    @classmethod
    async def join(cls, node_class: Any, multiaddr: str, name: str) -> LibP2PNode:
        host = await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"])
        channel = Channel(await host.open_stream(multiaddr, CONTROL_PROTOCOL), CONTROL)
        fake = node_class(channel, name)
        await channel.send(fake.hello(host.peer_id, token=""))
        await channel.send(fake.offer())
        return cls(fake, host, channel, asyncio.create_task(fake.live(channel.send, channel.receive)))

    async def leave(self) -> None:
        await self.channel.close()
        await self.task
        await self.host.close()


def use_openai(base_url: str, key: str) -> dict[str, Any]:
    """Upload, create, poll, download, list, cancel: what its users do, in their own words."""
    lines = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": CHAT,
            "body": {"model": "demo", "messages": [{"role": "user", "content": f"hi {i}"}]},
        }
        for i in range(10)
    ]
    lines[3]["body"]["top_z"] = 1  # type: ignore[index]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        file = client.files.create(file=("rows.jsonl", io.BytesIO(data)), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"who": "test"}
        )
        idle = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        client.batches.cancel(idle.id)
        while (batch := client.batches.retrieve(batch.id)).status != "completed":
            assert batch.status in ("validating", "in_progress", "finalizing"), batch
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        while (idle := client.batches.retrieve(idle.id)).status != "cancelled":
            assert idle.status == "cancelling", idle
        seen = {
            "file": file,
            "batch": batch,
            "output": client.files.content(batch.output_file_id).text,
            "errors": client.files.content(batch.error_file_id).text,
            "listed": [b.id for b in client.batches.list(limit=1)],
            "models": [model.id for model in client.models.list()],
            "files": len(list(client.files.list(limit=2))),
            "deleted": client.files.delete(file.id).deleted,
        }
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="x")  # type: ignore[arg-type]
        assert refused.value.param == "completion_window"
        assert refused.value.request_id
    with (
        openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    return seen | {"idle": idle}


async def test_the_openai_client_runs_a_batch_over_two_nodes(tmp_path: Path, node_class: Any) -> None:
    async with run_coordinator(config(tmp_path / "data"), MODEL) as running:
        nodes = [await LibP2PNode.join(node_class, running.multiaddr, name) for name in ("a", "b")]
        seen = await asyncio.to_thread(use_openai, running.base_url, running.api_key)
        async with aiohttp.ClientSession() as session:
            root = running.base_url.removesuffix("/v1")
            async with session.get(f"{root}/healthz") as response:
                assert response.status == 200
            async with session.get(f"{root}/metrics") as response:
                assert "deserve_rows_stored_total 9.0" in await response.text()
            key = {"Authorization": f"Bearer {running.api_key}"}
            async with session.get(f"{running.base_url}/network", headers=key) as response:
                network = await response.json()
        for node in nodes:
            await node.leave()
    assert [node["state"] for node in network["nodes"]] == ["serving", "serving"]
    assert [stage["layers"] for stage in network["rings"][0]["stages"]] == [[0, 2], [2, 4]]
    batch = seen["batch"]
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (10, 9, 1)
    assert batch.usage.total_tokens == 9 * 5
    outputs = [json.loads(line) for line in seen["output"].splitlines()]
    assert [line["custom_id"] for line in outputs] == [f"r{i}" for i in range(10) if i != 3]
    assert outputs[0]["response"]["body"]["choices"][0]["message"]["content"] == "HI 0"
    (error,) = [json.loads(line) for line in seen["errors"].splitlines()]
    assert (error["custom_id"], error["response"]["body"]["error"]["param"]) == ("r3", "top_z")
    assert seen["listed"] == [seen["idle"].id, batch.id]
    assert seen["models"] == ["demo"]
    assert seen["file"].status == "processed"
    assert seen["files"] >= 3
    assert seen["deleted"]


async def test_a_restarted_coordinator_finishes_what_the_first_one_accepted(tmp_path: Path, node_class: Any) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "x"}]}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}).encode()

    def submit(base_url: str, key: str) -> str:
        with openai.OpenAI(base_url=base_url, api_key=key) as client:
            file = client.files.create(file=("f", line), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            while client.batches.retrieve(batch.id).status == "validating":
                pass
            return batch.id

    def wait(base_url: str, key: str, batch_id: str) -> str:
        with openai.OpenAI(base_url=base_url, api_key=key) as client:
            while client.batches.retrieve(batch_id).status != "completed":
                pass
            return client.batches.retrieve(batch_id).status

    async with run_coordinator(config(tmp_path), MODEL) as first:
        batch_id = await asyncio.to_thread(submit, first.base_url, first.api_key)
    async with run_coordinator(config(tmp_path, ring_size=None), MODEL) as second:
        assert second.api_key == first.api_key
        assert second.multiaddr.split("/")[-1] == first.multiaddr.split("/")[-1]
        node = await LibP2PNode.join(node_class, second.multiaddr, "a")
        assert await asyncio.to_thread(wait, second.base_url, second.api_key, batch_id) == "completed"
        await node.leave()


async def test_a_node_notices_that_the_coordinator_stopped(tmp_path: Path, node_class: Any) -> None:
    async with run_coordinator(config(tmp_path), MODEL) as running:
        node = await LibP2PNode.join(node_class, running.multiaddr, "a")
    await asyncio.wait_for(node.task, 10)
    with pytest.raises(ChannelClosed):
        await node.channel.receive()
    await node.leave()


async def test_secrets_are_the_owners_only(tmp_path: Path) -> None:
    async with run_coordinator(config(tmp_path / "data"), MODEL):
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in (tmp_path / "data").iterdir()}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with run_coordinator(config(tmp_path / "one"), MODEL) as running:
        port = running.base_url.split(":")[2].split("/")[0]
        with pytest.raises(AddressInUse, match=port):
            async with run_coordinator(config(tmp_path / "two", http=f"127.0.0.1:{port}"), MODEL):
                pass


async def test_a_data_directory_has_one_coordinator(tmp_path: Path) -> None:
    async with run_coordinator(config(tmp_path), MODEL):
        with pytest.raises(DataInUse, match="another coordinator runs on"):
            async with run_coordinator(config(tmp_path), MODEL):
                pass


@pytest.mark.parametrize("text", ["", "two words\nand lines", "\xe4"])
async def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SecretUnusable, match=r"key: (expected|'ascii' codec)"):
        async with run_coordinator(config(tmp_path / "data", api_key_file=tmp_path / "key"), MODEL):
            pass


async def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-known-to-all")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(SecretUnusable, match="key: mode 0640 lets others read the secret; run: chmod 600 "):
        async with run_coordinator(config(tmp_path / "data", api_key_file=tmp_path / "key"), MODEL):
            pass
