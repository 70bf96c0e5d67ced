"""A payer against a coordinator over HTTP: it pays what is due and right, once, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deserve_client.errors import ClientError, InputError
from deserve_client.paying.charges import Overcharged, Signed
from deserve_client.paying.commands import check_output
from deserve_client.paying.payer import Payer
from deserve_client.paying.purse import Purse
from deserve_ledger.eip712 import sign


@pytest.fixture
def payer(purse, session, client):
    return Payer(purse, session, client, check_results=lambda *ended: check_output(client, purse, *ended))


async def test_it_pays_what_is_delivered_as_it_is_delivered(payer, paid, session):
    assert (await payer.step()).signed == 0
    paid.deliver("a", 3, 2)
    assert (await payer.step()).signed == 20
    assert (await payer.step()).seq == 1
    paid.deliver("b", 1, 1)
    progress = await payer.step()
    assert (progress.signed, progress.seq, progress.ended) == (28, 2, False)
    assert [(v.cumulative, v.seq) for v, _ in paid.vouchers] == [(20, 1), (28, 2)]
    assert paid.newest.results_root == paid.tree().root
    assert paid.signers == {session.address}
    paid.status = "completed"
    assert (await payer.step()).ended


async def test_it_pays_no_more_than_what_was_delivered_costs(payer, paid, purse):
    paid.deliver("a", 3, 2)
    await payer.step()
    paid.deliver("b", 1, 1)
    paid.charged += 1
    with pytest.raises(Overcharged, match="charged 29, and what was delivered costs 28"):
        await payer.step()
    assert purse.signed().cumulative == 20
    assert len(paid.vouchers) == 1


async def test_it_pays_no_more_than_its_budget(payer, paid):
    paid.deliver("a", 100, 151)
    with pytest.raises(Overcharged, match="budget is 1000"):
        await payer.step()
    assert paid.vouchers == []


async def test_a_voucher_whose_answer_was_lost_is_the_same_voucher_again(payer, paid):
    paid.deliver("a", 3, 2)
    paid.lose = 2
    await payer.step()
    assert len(paid.vouchers) == 3
    assert len(set(paid.vouchers)) == 1


async def test_in_the_end_the_results_are_held_against_the_charge(payer, paid, purse):
    paid.deliver("a", 3, 2)
    await payer.step()
    paid.deliver("b", 1, 1)
    name, body = paid.results[-1]
    usage = json.loads(body)["usage"] | {"completion_tokens": 0}
    paid.results[-1] = (name, json.dumps({"id": "x", "usage": usage}).encode())
    paid.status = "completed"
    with pytest.raises(Overcharged, match="charged 28, and the 2 results in the file are worth 24"):
        await payer.step()
    assert purse.signed().cumulative == 20


async def test_a_result_that_is_not_under_the_root_is_not_paid_for(payer, paid, monkeypatch):
    paid.deliver("a", 3, 2)
    paid.deliver("b", 3, 2)
    paid.status = "completed"
    right = paid.tree()
    name, body = paid.results[1]
    monkeypatch.setattr(paid, "tree", lambda: right)
    paid.results[1] = (name, body.replace(b'"x"', b'"y"'))
    with pytest.raises(Overcharged, match="b: its result is not among those"):
        await payer.step()
    assert paid.vouchers == []


async def test_the_batch_is_created_once_and_with_the_job(payer, paid, purse):
    for _ in range(3):
        await payer.step()
    (body,) = paid.created.values()
    assert body["deserve"]["job_id"] == "0x" + purse.order().agreement.job_id.hex()
    assert Purse(purse.folder).order().batch_id == "batch_1"


def test_what_would_be_signed_never_goes_back(purse):
    purse.write_signed(Signed(100, 1, b"\1" * 32))
    for bad in (Signed(200, 1, b"\2" * 32), Signed(99, 2, b"\2" * 32)):
        with pytest.raises(ClientError, match="nothing is signed"):
            purse.write_signed(bad)
    assert purse.signed() == Signed(100, 1, b"\1" * 32)


def test_two_processes_do_not_pay_from_one_purse(purse):
    with purse.held(), pytest.raises(InputError, match="another process pays from it"), Purse(purse.folder).held():
        pass


def test_the_purse_is_its_owners_alone(purse):
    assert purse.folder.stat().st_mode & 0o077 == 0
    for file in purse.folder.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


@pytest.fixture
def command(tmp_path, purse, paid):
    """`deserve pay` in a process of its own."""
    words, key = tmp_path / "words", tmp_path / "api-key"
    for file, content in ((words, "open sesame\n"), (key, "sk-test\n")):
        file.touch(mode=0o600)
        file.write_text(content)
    places = {"--purses": tmp_path / "purses", "--passphrase-file": words, "--api-key-file": key}
    arguments = ["pay", *(str(part) for pair in places.items() for part in pair)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CONFIG_HOME": str(tmp_path)}

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deserve_client.main", *arguments, "--json", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return start


async def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    return await asyncio.to_thread(process.communicate, timeout=60)


async def test_killed_between_writing_and_handing_over_it_signs_the_same_again(command, paid, purse, session):
    paid.deliver("a", 3, 2)
    paid.hold = True
    process = command()
    async with asyncio.timeout(60):
        await paid.arrived.wait()
    process.send_signal(signal.SIGKILL)
    await ended(process)
    assert purse.signed().cumulative == 20
    paid.hold = False
    paid.deliver("b", 1, 1)  # more is due now, and yet the first number keeps its content
    output, errors = await ended(command("--once"))
    assert json.loads(output)["signed"] == "28", errors
    assert {v.seq: v.cumulative for v, _ in paid.vouchers} == {2: 28}
    agreement = purse.order().agreement
    for voucher, signature in paid.vouchers:
        assert signature == sign(session.secret, agreement.domain, voucher)


async def test_it_goes_on_until_the_batch_has_ended(command, paid):
    process = command("--poll-s", "0.05")
    paid.deliver("a", 3, 2)
    async with asyncio.timeout(60):
        await paid.arrived.wait()
    paid.deliver("b", 1, 1)
    paid.status = "completed"
    output, errors = await ended(process)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["signed"] == "28"
    assert paid.newest.cumulative == 28
    output, errors = await ended(command())
    assert (output, "nothing to pay for" in errors) == ("", True)
    (one,) = json.loads((await ended(command("--status")))[0])
    assert (one["signed"], one["budget"], one["ended"]) == ("28", "1000", True)


async def test_who_is_overcharged_ends_with_1_and_says_why(command, paid):
    paid.deliver("a", 3, 2)
    paid.charged = 21
    process = command("--once")
    _, errors = await ended(process)
    assert process.returncode == 1
    assert "charged 21, and what was delivered costs 20 at the agreed price; nothing more is paid" in errors


def test_only_its_own_modules_know_the_ledger():
    package = Path(sys.modules["deserve_client"].__file__).parent
    outside = [path for path in package.glob("*.py") if "from deserve_ledger" in path.read_text()]
    assert outside == []
