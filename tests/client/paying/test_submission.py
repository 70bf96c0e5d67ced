"""From a file to a job on a ledger: budget in escrow, a key for this job alone, a batch, payment, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest
from click.testing import CliRunner
from paid_coordinator import ACCOUNT
from served_ledgers import served_contract, served_journal

from deserve_client.commands import batch
from deserve_client.main import deserve
from deserve_client.paying.purse import all_purses
from deserve_ledger.calls import RedeemVoucher, Refund
from deserve_ledger.deployment import write_deployment
from deserve_ledger.errors import Refused
from deserve_ledger.keystore import Key, create_keystore
from deserve_ledger.opening import opened_ledger

PAYER = Key.of(b"\x41" * 32)
TOKEN = 10**18
NOW_S = 1_800_000_000


@pytest.fixture(params=["embedded", "evm"])
async def place(request, tmp_path, paid):
    funded = (PAYER.address, ACCOUNT.address)
    served = (
        served_journal(tmp_path, funded, 100 * TOKEN, lambda: float(NOW_S))
        if request.param == "embedded"
        else served_contract(tmp_path, funded, 100 * TOKEN)
    )
    async with served as deployment:
        write_deployment(tmp_path / "deployment.json", deployment)
        paid.domain = deployment.domain
        yield deployment


@pytest.fixture
def run(tmp_path, paid, monkeypatch):
    monkeypatch.setattr("deserve_client.paying.opening.STANDARD_SCRYPT_N", 2)
    for name, content in (("words", "open sesame\n"), ("api-key", "sk-test\n")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(content)
    create_keystore(tmp_path / "payer.json", "open sesame", key=PAYER, scrypt_n=2)
    row = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    own = {"--keystore": "payer.json", "--passphrase-file": "words", "--deployment": "deployment.json", "--purses": "p"}
    flags = [str(part) for name, file in own.items() for part in (name, tmp_path / file)]
    where = ["--base-url", paid.base_url, "--api-key-file", str(tmp_path / "api-key")]

    async def invoke(*arguments: str, payer: bool = True):
        file = str(tmp_path / "prompts.jsonl")
        given = [file if part == "FILE" else part for part in arguments]
        return await asyncio.to_thread(CliRunner().invoke, deserve, [*given, *(flags if payer else []), *where])

    return invoke


async def test_a_batch_is_escrowed_paid_redeemed_and_the_rest_refunded(place, run, paid, tmp_path):
    paid.at_most = 5 * TOKEN
    done = await run("batch", "submit", "FILE", "--budget", "3", "--max-price", "0.000001")
    assert done.exit_code == 0, done.output
    assert done.stdout == "batch_1\n"
    assert "nobody pays for it yet: deserve pay batch_1" in done.stderr
    (body,) = paid.created.values()
    assert body["deserve"]["max_price"] == {"prefill": str(10**12), "decode": str(10**12)}
    assert body["deserve"]["max_cost"] == str(3 * TOKEN)
    (purse,) = all_purses(tmp_path / "p")
    order = purse.order()

    async with opened_ledger(place, PAYER, tmp_path / "look") as ledger:
        job = await ledger.job(order.agreement.job_id)
        assert (job.payer, job.coordinator, job.signer) == (PAYER.address, ACCOUNT.address, order.signer)
        assert (job.budget, job.drawn) == (3 * TOKEN, 0)
        assert job.deadline_s == order.deadline_s
        assert await ledger.balance(PAYER.address) == 0

    paid.deliver("a", 3, 2, price=10**6)
    done = await run("pay", "--once")
    assert done.exit_code == 0, done.output
    ((voucher, signature),) = paid.vouchers
    assert voucher.cumulative == 20 * 10**6
    async with opened_ledger(place, ACCOUNT, tmp_path / "coordinator") as ledger:
        await ledger.submit(RedeemVoucher(voucher, signature))
        assert await ledger.balance(ACCOUNT.address) == 20 * 10**6
        await ledger.submit(Refund(order.agreement.job_id))
        assert await ledger.balance(PAYER.address) == 3 * TOKEN - 20 * 10**6
        with pytest.raises(Refused):
            await ledger.submit(RedeemVoucher(voucher, signature))


async def test_a_process_of_its_own_pays_while_the_payer_has_gone(place, run, paid, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    done = await run("batch", "submit", "FILE", "--budget", "3", "--pay")
    assert done.exit_code == 0, done.output
    assert "pays for it; its log is" in done.stderr
    paid.deliver("a", 3, 2)
    async with asyncio.timeout(60):
        await paid.arrived.wait()
    paid.deliver("b", 1, 1)
    paid.status = "completed"
    (purse,) = all_purses(tmp_path / "p")
    number = int(done.stderr.split("process ")[1].split()[0])
    _, status = await asyncio.to_thread(os.waitpid, number, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert purse.order().ended
    assert paid.newest.cumulative == 28
    assert "paid 28 of" in (purse.folder / "pay.log").read_text()


async def test_a_job_that_is_not_overdue_is_not_refunded_to_its_payer(place, run, paid):
    assert (await run("batch", "submit", "FILE", "--budget", "3")).exit_code == 0
    early = await run("pay", "--refund", "batch_1")
    assert early.exit_code != 0
    assert "no refund: TooEarly" in str(early.exception)


async def test_only_what_the_batch_can_cost_is_locked(place, run, paid, tmp_path):
    paid.at_most = 7
    assert (await run("batch", "submit", "FILE", "--budget", "3")).exit_code == 0
    (body,) = paid.created.values()
    assert "max_cost" not in body["deserve"]
    assert all_purses(tmp_path / "p")[0].order().escrow == 7


async def test_another_account_than_the_one_that_is_meant_gets_no_job(place, run, paid, tmp_path):
    done = await run("batch", "submit", "FILE", "--budget", "3", "--account", "0x" + "11" * 20)
    assert done.exit_code != 0
    assert "--account: this one's account is 0x" in str(done.exception)
    assert all_purses(tmp_path / "p") == []
    assert paid.created == {}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-price", "1"], "--max-price: has no meaning without --budget"),
        (["--pay"], "--pay: has no meaning without --budget"),
        (["--budget", "1"], "--budget: needs --keystore"),
        (["--budget", "1", "--keystore", "k"], "--budget: needs --deployment"),
        (["--budget", "1", "--keystore", "k", "--deployment", "d", "--pay"], "--pay: needs --passphrase-file"),
        (["--budget", "1", "--keystore", "k", "--deployment", os.devnull], "/dev/null"),
    ],
)
def test_what_does_not_go_together_is_named_before_anything_is_sent(tmp_path, arguments, reason):
    file = tmp_path / "prompts.jsonl"
    row = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    file.write_text(json.dumps(row) + "\n")
    done = CliRunner().invoke(batch, ["submit", str(file), "--base-url", "http://127.0.0.1:9/v1", *arguments])
    assert reason in str(done.exception)


async def test_a_quote_is_shown(run, paid):
    done = await run("batch", "quote", "FILE", payer=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "at most 1000000"
    assert "a margin of 5 % included" in done.stdout
