"""`deserve ledger`: from a bare chain to money withdrawn again, and errors that name the flag."""

from __future__ import annotations

import asyncio
import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deserve_ledger.calls import Deposit, RegisterNode, Reserve
from deserve_ledger.commands import ledger
from deserve_ledger.credit_file import SignedCredit, read_credits, write_credits
from deserve_ledger.deployment import read_deployment, write_deployment
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.eip712 import sign
from deserve_ledger.errors import InvalidField
from deserve_ledger.identifiers import node_id
from deserve_ledger.keystore import Key, create_keystore
from deserve_ledger.messages import BindNode, Credit


async def run(*arguments: Any) -> Result:
    # In a thread: a command runs a loop of its own.
    return await asyncio.to_thread(CliRunner().invoke, ledger, list(map(str, arguments)))


async def told(*arguments: Any) -> dict[str, Any]:
    result = await run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


@pytest.fixture
def account(tmp_path: Path) -> tuple[Path, Key]:
    """The flags of an account without money, and its key."""
    key = create_keystore(tmp_path / "key.json", "secret", scrypt_n=2)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("secret\n")
    passphrase.chmod(0o600)
    return tmp_path, key


def flags(folder: Path) -> list[Any]:
    own = ["--keystore", folder / "key.json", "--passphrase-file", folder / "passphrase"]
    return ["--deployment", folder / "ledger.json", *own]


async def test_from_a_bare_chain_to_money_withdrawn(chain, account):
    folder, key = account
    file = folder / "ledger.json"
    made = await told("deploy", "--rpc-url", chain.url, "--test-token", "--deployment", file, "--min-stake", "2.5")
    assert read_deployment(file).contract.hex() == made["contract"][2:]
    assert (await run("faucet", f"0x{key.address.hex()}", "--deployment", file, "--tokens", "50")).exit_code == 0
    assert (await told("deposit", "12.5", *flags(folder)))["balance"] == "12.5"
    assert (await told("withdraw", "2.25", *flags(folder)))["balance"] == "10.25"
    status = await told("status", "--deployment", file, "--keystore", folder / "key.json")
    assert (status["balance"], status["tokens_outside"], status["balances"]) == ("10.25", "39.75", "10.25")
    assert status["min_stake"] == 25 * 10**17
    assert (await told("withdraw", "all", *flags(folder)))["balance"] == "0"
    result = await run("export", "--deployment", file, "--account", f"0x{key.address.hex()}", "--format", "csv")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [(row["event"], row["tokens"]) for row in rows] == [
        ("Deposited", "12.5"),
        ("Withdrawn", "2.25"),
        ("Withdrawn", "10.25"),
    ]
    assert {row["time_s"] for row in rows} == {str(1_700_000_000)}
    assert os.stat(folder / "key.json.state").st_mode & 0o077 == 0


async def test_an_export_goes_on_where_the_last_one_ended(chain, tmp_path):
    file = tmp_path / "ledger.json"
    write_deployment(file, chain.deployment)
    depositor = await chain.ledger(1)
    for amount in (1, 2):
        await depositor.submit(Deposit(amount))
    lines = [json.loads(line) for line in (await run("export", "--deployment", file)).stdout.splitlines()]
    assert [line["amount"] for line in lines] == ["1", "2"]
    output = tmp_path / "events.jsonl"
    await run("export", "--deployment", file, "--after", lines[0]["position"], "--output", output)
    assert [json.loads(line)["amount"] for line in output.read_text().splitlines()] == ["2"]


async def test_what_counts_as_final_can_be_said(chain, tmp_path):
    write_deployment(tmp_path / "ledger.json", chain.deployment)
    await (await chain.ledger(1)).submit(Deposit(7))

    async def deposits(confirmations: Any) -> int:
        flags = ["--deployment", tmp_path / "ledger.json", "--confirmations", confirmations]
        result = await run("export", *flags)
        assert result.exit_code == 0, result.output
        return len(result.stdout.splitlines())

    assert [await deposits(blocks) for blocks in (0, 1)] == [1, 0]
    chain.ask("evm_mine")
    assert [await deposits(blocks) for blocks in (0, 1, 2)] == [1, 1, 0]


async def with_credits(chain, folder: Path) -> bytes:
    """A node of account 1, to which account 2 owes 700 and 900 base units with 800 reserved; a file says so."""
    operator, coordinator = await chain.ledger(1), await chain.ledger(2)
    receipt = Key.of(bytes([9]) * 32)
    await operator.submit(Deposit(2000))
    binding = sign(receipt.secret, operator.domain, BindNode(operator.account, bytes(32), 0))
    await operator.submit(RegisterNode(bytes(32), receipt.address, 2000, 0, binding))
    node = node_id(operator.account, bytes(32))
    await coordinator.submit(Deposit(800))
    await coordinator.submit(Reserve(node, 800))
    credits = [Credit(coordinator.account, node, amount, seq, bytes(32)) for seq, amount in ((1, 700), (2, 900))]
    with (folder / "credits.jsonl").open("w") as file:
        signed = [SignedCredit(one, sign(development_key(2), operator.domain, one)) for one in credits]
        write_credits(file, signed)
    write_deployment(folder / "ledger.json", chain.deployment)
    return operator.account


async def test_a_claim_redeems_the_newest_credit_and_nothing_twice(chain, account):
    folder, key = account
    operator = await with_credits(chain, folder)
    await run("faucet", f"0x{key.address.hex()}", "--deployment", folder / "ledger.json", "--tokens", "0")
    claimed = await told("claim", folder / "credits.jsonl", *flags(folder))
    assert (claimed["paid"], claimed["owes"]) == ("0.0000000000000008", "0.0000000000000001")
    nonce = chain.nonce(key.address)
    again = await run("claim", folder / "credits.jsonl", *flags(folder))
    assert "0.0000000000000001 more is owed and not covered" in again.stdout
    assert chain.nonce(key.address) == nonce
    assert await (await chain.ledger(3)).balance(operator) == 800


async def test_a_credit_for_another_ledger_is_told_before_anything_is_sent(chain, account):
    folder, _ = account
    await with_credits(chain, folder)
    forged = [
        SignedCredit(one.credit, sign(development_key(3), chain.deployment.domain, one.credit))
        for one in read_credits(folder / "credits.jsonl")
    ]
    with (folder / "forged.jsonl").open("w") as file:
        write_credits(file, forged)
    result = await run("claim", folder / "forged.jsonl", *flags(folder))
    assert result.exit_code == 1
    assert "not by its coordinator" in result.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"coordinator": "0x00"}', "coordinator"),
        ('{"coordinator": 5}', "coordinator"),
        ("x" * 5000, "longer than"),
    ],
)
def test_a_faulty_line_of_credits_is_named(tmp_path, line, reason):
    (tmp_path / "credits.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(InvalidField, match=rf"credits\.jsonl:2: .*{reason}"):
        read_credits(tmp_path / "credits.jsonl")


async def test_wrong_flags_are_named_and_nothing_is_sent(chain, account):
    folder, key = account
    write_deployment(folder / "ledger.json", chain.deployment)
    nobody = f"0x{bytes(20).hex()}"
    for arguments, reason in [
        (["deposit", "1"], "give --keystore"),
        (["deposit", "1", "--keystore", folder / "key.json", "--passphrase-file", folder / "passphrase"], "--rpc-url"),
        (["deposit", "1.5.5", *flags(folder)], "AMOUNT"),
        (["deposit", "1", *flags(folder), "--confirmations", "some"], "--confirmations: 'some'"),
        (["deposit", "1", *flags(folder), "--confirmations", "10001"], "--confirmations: '10001'"),
        (["deposit", "1", *flags(folder), "--contract", nobody], "--contract"),
        (["status", "--rpc-url", chain.url, "--contract", nobody], "no ledger at 0x0000"),
        (["status", "--rpc-url", chain.url, "--contract", "0x12"], "--contract"),
        (["deploy", "--rpc-url", chain.url, "--deployment", folder / "new.json"], "--test-token"),
        (["deploy", "--rpc-url", chain.url, "--deployment", folder / "ledger.json", "--test-token"], "kept"),
        (["deploy", "--rpc-url", chain.url, "--deployment", folder / "new.json", "--token", nobody], "no ERC-20"),
        (["devnet", "--data", folder / "chain", "--listen", "8545"], "--listen"),
    ]:
        result = await run(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert reason in result.stderr, (arguments, result.output)
    assert not (folder / "new.json").exists()
    assert chain.nonce(key.address) == 0


async def test_terms_that_no_contract_takes_are_refused_by_name(chain, tmp_path):
    deployment = ["--deployment", tmp_path / "ledger.json", "--test-token"]
    result = await run("deploy", "--rpc-url", chain.url, *deployment, "--unbonding-s", "5")
    assert result.exit_code == 1
    assert "BadTerms" in result.stderr
    assert not (tmp_path / "ledger.json").exists()


async def test_an_account_without_ether_is_told(chain, account):
    folder, _ = account
    write_deployment(folder / "ledger.json", chain.deployment)
    result = await run("withdraw", "0", *flags(folder))
    assert result.exit_code == 1
    assert "Unfunded" in result.stderr
