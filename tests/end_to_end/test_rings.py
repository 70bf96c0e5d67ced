"""Several rings on one batch, and nodes that join while it runs."""

from __future__ import annotations

import asyncio

import pytest
from batch_rows import completion, read_lines, token_ids, write_batch
from greedy import ties_against_greedy

from deserve_testnet.config import TestnetConfig
from deserve_testnet.run import run_batch
from deserve_testnet.testnet import Testnet
from deserve_testnet.wan.internet import why_unavailable

DEADLINE_S = 120
ROWS = 96


def rows_of(model, tmp_path):
    rows = [completion(f"row-{n}", model, f"{n}: " * 5, max_tokens=60, ignore_eos=True) for n in range(ROWS)]
    return write_batch(tmp_path / "in.jsonl", rows)


def check(output, model, reference_model):
    lines = read_lines(output)
    assert [line["custom_id"] for line in lines] == [f"row-{n}" for n in range(ROWS)]
    for line in lines[::12]:
        assert ties_against_greedy(reference_model(model), *token_ids(line)) == []


async def rings_that_worked(net, count):
    """Wait until `count` rings have drawn tokens."""
    while True:
        view = await net.view.read()
        if sum(ring["completion_tokens"] > 0 for ring in view["rings"]) >= count:
            return
        await asyncio.sleep(0.05)


async def run_and_join(net, source, output, *, at_first, after_joining):
    """Send the batch, add a node when `at_first` rings work, and wait for both the batch and the new ring."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        batch = group.create_task(run_batch(net, source, output))
        await rings_that_worked(net, at_first)
        await net.add_node()
        await rings_that_worked(net, after_joining)
    return batch.result()


async def test_two_rings_serve_one_batch_and_a_node_that_joins_becomes_a_third(tiny_model, reference_model, tmp_path):
    source, output = rows_of(tiny_model, tmp_path), tmp_path / "out.jsonl"
    config = TestnetConfig(model=str(tiny_model), nodes=2, rings=2, latency_ms=20, memory="64MiB")
    async with Testnet(config) as net:
        report = await run_and_join(net, source, output, at_first=2, after_joining=3)
    assert (report.completed, report.failed) == (ROWS, 0)
    assert {stage.node for stage in report.stages} == {"node-1", "node-2", "node-3"}
    check(output, tiny_model, reference_model)


@pytest.mark.netns
@pytest.mark.skipif(why_unavailable() is not None, reason=f"no network namespaces: {why_unavailable()}")
async def test_a_node_joins_from_a_second_network_namespace(tiny_model, reference_model, tmp_path):
    source, output = rows_of(tiny_model, tmp_path), tmp_path / "out.jsonl"
    config = TestnetConfig(model=str(tiny_model), nodes=1, latency_ms=15, wan="netns", spare_members=1, memory="64MiB")
    async with Testnet(config) as net:
        report = await run_and_join(net, source, output, at_first=1, after_joining=2)
    assert (report.completed, report.failed) == (ROWS, 0)
    check(output, tiny_model, reference_model)
