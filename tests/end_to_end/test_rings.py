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


def rows_of(model, tmp_path, count, max_tokens, **parameters):
    parameters = {"max_tokens": max_tokens, "ignore_eos": True, **parameters}
    rows = [completion(f"row-{n}", model, f"{n}: " * 5, **parameters) for n in range(count)]
    return write_batch(tmp_path / "in.jsonl", rows)


def check(output, count, model, reference_model):
    lines = read_lines(output)
    assert [line["custom_id"] for line in lines] == [f"row-{n}" for n in range(count)]
    for line in lines[:: count // 8]:
        assert ties_against_greedy(reference_model(model), *token_ids(line)) == []


async def test_two_rings_serve_one_batch(tiny_model, reference_model, tmp_path):
    source, output = rows_of(tiny_model, tmp_path, 640, 40), tmp_path / "out.jsonl"
    config = TestnetConfig(model=str(tiny_model), nodes=2, rings=2, memory="64MiB")
    async with asyncio.timeout(DEADLINE_S), Testnet(config) as net:
        report = await net.unless_one_dies(run_batch(net, source, output))
        rings = (await net.view.read())["rings"]
    assert (report.completed, report.failed) == (640, 0)
    assert {stage.node for stage in report.stages} == {"node-1", "node-2"}
    assert len(rings) == 2
    assert all(ring["completion_tokens"] > 0 for ring in rings)
    check(output, 640, tiny_model, reference_model)


async def run_and_join(net, source, output):
    """Send a batch, add a node once rows run, and wait for the batch; tells which nodes had computed for it by then."""
    first = f"node-{len(net.nodes)}"
    joining = f"node-{len(net.nodes) + 1}"
    batch = asyncio.create_task(net.unless_one_dies(run_batch(net, source, output)))

    async def until_computing(node):
        while not any(
            stage["node"] == node and stage["tokens"] > 0
            for ring in (await net.view.read())["rings"]
            for stage in ring["stages"]
        ):
            assert not batch.done(), f"the batch ended before {node} computed anything: {batch.result()}"
            await asyncio.sleep(0.05)

    async with asyncio.timeout(DEADLINE_S):
        await until_computing(first)
        await net.add_node()
        await until_computing(joining)
        return await batch


# Where there are network namespaces, `test_second_machine` says this of the honest kind, and suffices for a quick run.
long_where_there_are_namespaces = pytest.mark.soak if why_unavailable() is None else lambda test: test


@long_where_there_are_namespaces
async def test_a_node_that_joins_while_a_batch_runs_is_put_to_use(tiny_model, reference_model, tmp_path):
    # At 400 ms a token the batch outlasts the start of a node, however fast the machine.
    source, output = rows_of(tiny_model, tmp_path, 32, 60), tmp_path / "out.jsonl"
    config = TestnetConfig(model=str(tiny_model), nodes=2, latency_ms=200, memory="64MiB", settle_s=0.1)
    async with Testnet(config) as net:
        report = await run_and_join(net, source, output)
    assert (report.completed, report.failed) == (32, 0)
    assert {stage.node for stage in report.stages} == {"node-1", "node-2", "node-3"}
    check(output, 32, tiny_model, reference_model)


async def test_a_ring_that_forms_while_all_rows_are_leased_gets_its_part_of_them(tiny_model, tmp_path):
    source = rows_of(tiny_model, tmp_path, 160, 440, temperature=1)
    output, undisturbed = tmp_path / "out.jsonl", tmp_path / "undisturbed.jsonl"
    config = TestnetConfig(model=str(tiny_model), nodes=1, memory="256MiB", threads=1, settle_s=0.1)
    async with asyncio.timeout(DEADLINE_S), Testnet(config) as net:
        report = await run_and_join(net, source, output)
        await net.unless_one_dies(run_batch(net, source, undisturbed))
    assert (report.completed, report.failed) == (160, 0)
    assert {stage.node for stage in report.stages} == {"node-1", "node-2"}
    assert [token_ids(line) for line in read_lines(output)] == [token_ids(line) for line in read_lines(undisturbed)]
