"""Whoever is lost while a batch runs, the batch ends with every row once and the tokens of an undisturbed run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from batch_rows import completion, read_lines, write_batch

from deserve_client.api import CoordinatorClient
from deserve_client.download import download
from deserve_client.errors import UnreachableError
from deserve_client.settings import Settings
from deserve_models import resolve
from deserve_node.local import LocalRing
from deserve_testnet.config import TestnetConfig
from deserve_testnet.testnet import Testnet

DEADLINE_S = 150
ROWS = 20


def rows_of(model):
    """Greedy rows and sampled ones, of different lengths."""
    return [
        completion(
            f"row-{n}",
            model,
            f"{n}: " * (1 + n % 5),
            max_tokens=40 + n % 7,
            ignore_eos=True,
            temperature=0.8 if n % 2 else 0,
            seed=n,
        )
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def undisturbed(tiny_model):
    """Token ids by custom_id, drawn in this process without any network."""
    rows = rows_of(tiny_model)
    ring = LocalRing(resolve(str(tiny_model)), kv_bytes=32 << 20)
    results = ring.serve([(row["url"], row["body"]) for row in rows])
    ring.close()
    return {
        row["custom_id"]: json.loads(result.body)["choices"][0]["token_ids"]
        for row, result in zip(rows, results, strict=True)
    }


class Batch:
    """One batch on a testnet, followed through every outage."""

    def __init__(self, net, client, batch_id):
        self.net = net
        self._client = client
        self._id = batch_id

    @classmethod
    async def send(cls, net, client, source):
        file = await client.upload(source)
        return cls(net, client, (await client.create_batch(file["id"], "/v1/completions"))["id"])

    async def until_tokens_flow(self):
        """Until the ring has drawn tokens, a few seconds before the batch can end; returns the ring."""
        while True:
            ring = (await self.net.view.read())["rings"][0]
            if ring["completion_tokens"] >= 2 * ROWS:
                batch = await self._client.batch(self._id)
                assert batch["status"] == "in_progress"
                assert batch["request_counts"]["completed"] == 0
                return ring
            await asyncio.sleep(0.02)

    async def until_complete(self, target: Path):
        """Token ids by custom_id of the finished batch."""
        while True:
            try:
                batch = await self._client.batch(self._id)
            except UnreachableError:
                continue
            assert batch["status"] in ("in_progress", "finalizing", "completed"), batch
            if batch["status"] == "completed":
                break
            await asyncio.sleep(0.05)
        assert batch["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
        await download(self._client, batch["output_file_id"], target)
        lines = read_lines(target)
        assert [line["custom_id"] for line in lines] == [f"row-{n}" for n in range(ROWS)]
        return {line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"] for line in lines}


def config_for(model):
    """At 50 ms a hop a token takes more than 0.1 s: a batch lasts for seconds on any machine."""
    return TestnetConfig(model=str(model), nodes=2, latency_ms=50, memory="64MiB", settle_s=0.1)


async def run_disturbed(model, tmp_path, disturb):
    """The batch's tokens; `disturb(batch, ring)` happens while tokens flow."""
    source = write_batch(tmp_path / "in.jsonl", rows_of(model))
    async with (
        asyncio.timeout(DEADLINE_S),
        Testnet(config_for(model)) as net,
        CoordinatorClient(Settings(net.base_url, net.api_key)) as client,
    ):
        batch = await Batch.send(net, client, source)
        await disturb(batch, await batch.until_tokens_flow())
        return await net.unless_one_dies(batch.until_complete(tmp_path / "out.jsonl"))


def node_of(net, ring, stage):
    name = ring["stages"][stage]["node"]
    return next(node for node in net.nodes if node.name == name)


async def test_a_node_that_is_killed_is_replaced(tiny_model, undisturbed, tmp_path):
    async def disturb(batch, ring):
        await node_of(batch.net, ring, 1).kill()
        await batch.net.add_node()

    assert await run_disturbed(tiny_model, tmp_path, disturb) == undisturbed


async def test_a_coordinator_that_is_killed_goes_on_where_it_was(tiny_model, undisturbed, tmp_path):
    async def disturb(batch, ring):
        await batch.net.restart_coordinator()

    assert await run_disturbed(tiny_model, tmp_path, disturb) == undisturbed


async def test_a_head_that_is_told_to_end_does_so_at_once_and_the_rest_go_on(tiny_model, undisturbed, tmp_path):
    async def disturb(batch, ring):
        head = node_of(batch.net, ring, 0)
        began = time.monotonic()
        await head.stop(grace_s=20)
        assert head.exit_code == 0, head.tail()
        assert time.monotonic() - began < 5
        assert "Traceback" not in head.log.read_text()

    assert await run_disturbed(tiny_model, tmp_path, disturb) == undisturbed
