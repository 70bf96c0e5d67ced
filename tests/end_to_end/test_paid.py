"""Work over a real chain: escrowed, served, audited, settled and collected; a cheat loses its stake, a payer no row."""

from __future__ import annotations

import aiohttp
from batch_rows import completion, read_lines, write_batch
from command import deserve

from deserve_client.api import CoordinatorClient
from deserve_client.settings import Settings
from deserve_ledger.calls import Refund
from deserve_testnet.config import TestnetConfig
from deserve_testnet.market.config import MarketConfig
from deserve_testnet.market.market import STAKE
from deserve_testnet.market.settling import collect
from deserve_testnet.testnet import Testnet

ROWS = 24


def rows_of(model):
    return [
        completion(f"row-{n}", model, f"{n}: " * (1 + n % 5), max_tokens=30 + n % 7, ignore_eos=True, temperature=0)
        for n in range(ROWS)
    ]


def tokens_of(path):
    lines = read_lines(path)
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"] for line in lines}


def amounts(account):
    return {name: int(value) for name, value in account.items() if name not in ("party", "address")}


def test_a_cheat_is_caught_slashed_and_not_paid_and_every_row_is_right(tiny_model, tmp_path):
    source = write_batch(tmp_path / "in.jsonl", rows_of(tiny_model))
    network = ["testnet", "run", "--model", tiny_model, "--memory", "64MiB", "--input", source, "--json"]
    honest = deserve(*network, "--nodes", 2, "--output", tmp_path / "honest.jsonl")
    assert honest.exit_code == 0, honest.stderr
    paid = deserve(
        *(*network, "--nodes", 5, "--ledger", "evm", "--cheat", "node2:skip-layer"),
        *("--output", tmp_path / "paid.jsonl"),
    )
    assert paid.exit_code == 0, paid.stderr
    assert tokens_of(tmp_path / "paid.jsonl") == tokens_of(tmp_path / "honest.jsonl")
    table = paid.report["balances"]
    accounts = {account["party"]: amounts(account) for account in table["accounts"]}
    assert list(table["put_out"]) == ["node-2"]
    assert "refuted: stage" in table["put_out"]["node-2"]
    cheat, payer = accounts["operator of node-2"], accounts["payer"]
    others = [accounts[f"operator of node-{n}"] for n in (1, 3, 4, 5)]
    assert cheat["slashed"] == STAKE
    assert int(table["burnt"]) == STAKE * 4 // 10
    assert payer["rewarded"] == STAKE * 3 // 10
    assert sum(account["slashed"] for account in accounts.values()) == STAKE
    # What it was paid is for audits of others, out of the margin.
    assert cheat["paid"] < min(account["paid"] for account in others) // 10
    assert payer["escrowed"] == payer["refunded"] + accounts["coordinator"]["drawn"]
    paid_out = sum(account["paid"] for account in accounts.values())
    assert 0 <= accounts["coordinator"]["drawn"] - paid_out <= accounts["coordinator"]["drawn"] // 20


async def test_nodes_collect_and_the_payer_is_refunded_when_the_coordinator_never_comes_back(tiny_model, tmp_path):
    source = write_batch(tmp_path / "in.jsonl", rows_of(tiny_model))
    config = TestnetConfig(
        model=str(tiny_model),
        nodes=2,
        memory="64MiB",
        directory=tmp_path / "net",
        market=MarketConfig(time_control=True),
    )
    async with Testnet(config) as net:
        market, payment = net.market, net.payment()
        async with CoordinatorClient(Settings(net.base_url, net.api_key)) as client:
            file = await client.upload(source)
            batch_id = await payment.create_batch(client, file["id"], "/v1/completions", ())
            while (await client.batch(batch_id))["request_counts"]["completed"] < ROWS // 2:
                pass
            job_id = bytes.fromhex((await client.payment(batch_id))["job_id"][2:])
        await net.coordinator.kill()
        owed = await collect(market, net.directory)
        async with market.ledger(market.parties.payer) as ledger:
            for node_id, name in market.nodes.items():
                reserved = await ledger.reservation(market.parties.coordinator.key.address, node_id)
                assert reserved.claimed == owed[name]
            job = await ledger.job(job_id)
            assert (job.budget > 0, job.refunded) == (True, False)
            await turn_clock(market.deployment.url, job.deadline_s - await ledger.now_s() + 60)
            await ledger.submit(Refund(job_id))
        books = await market.books()
        payer = books.accounts[market.parties.payer.key.address]
        assert payer.refunded == payer.escrowed - job.drawn


async def turn_clock(url, seconds):
    async with aiohttp.ClientSession() as session:
        for method, parameters in (("evm_increaseTime", [seconds]), ("evm_mine", [])):
            asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
            async with session.post(url, json=asked) as response:
                assert "error" not in await response.json()
