"""An operator's money from stake to payout, on both ledgers: every coordinator is dead by the time it is collected."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from served_ledgers import served_contract, served_journal

from deserve_ledger.calls import Deposit, Reserve
from deserve_ledger.credit_file import SignedCredit, read_credits
from deserve_ledger.deployment import write_deployment
from deserve_ledger.eip712 import sign
from deserve_ledger.identifiers import node_id
from deserve_ledger.keystore import Key, create_keystore
from deserve_ledger.messages import Credit
from deserve_ledger.opening import opened_ledger
from deserve_ledger.prices import Prices
from deserve_network.identity import load_or_create_identity, public_key_of
from deserve_network.money_messages import LedgerRef
from deserve_node.commands import node
from deserve_node.settings import NodeSettings, SettingsError, load_settings
from deserve_node.wallet.opening import opened_wallet
from deserve_node.wallet.store import Debtor, Earned, WalletStore

OPERATOR, COORDINATOR = Key.of(b"\x51" * 32), Key.of(b"\x52" * 32)
TOKEN = 10**18
NOW_S = 1_800_000_000


@pytest.fixture(params=["embedded", "evm"])
async def place(request, tmp_path):
    funded = (OPERATOR.address, COORDINATOR.address)
    served = (
        served_journal(tmp_path, funded, 100 * TOKEN, lambda: float(NOW_S))
        if request.param == "embedded"
        else served_contract(tmp_path, funded, 100 * TOKEN)
    )
    async with served as deployment:
        write_deployment(tmp_path / "deployment.json", deployment)
        words = tmp_path / "words"
        words.touch(mode=0o600)
        words.write_text("open sesame\n")
        create_keystore(tmp_path / "operator.json", "open sesame", key=OPERATOR, scrypt_n=2)
        yield deployment


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("deserve_ledger.keystore.STANDARD_SCRYPT_N", 2)
    flags = ["--deployment", "deployment.json", "--keystore", "operator.json", "--passphrase-file", "words"]
    flags = [str(tmp_path / part) if not part.startswith("-") else part for part in flags]

    async def invoke(command: str, *more: str, account: bool = True):
        arguments = [command, "--data", str(tmp_path / "node"), *(flags if account else []), *more]
        return await asyncio.to_thread(CliRunner().invoke, node, arguments)

    return invoke


async def told(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def identity_of(data: Path):
    return load_or_create_identity(data / "identity.key")


async def test_a_stake_goes_in_once_and_comes_back_after_its_time(place, run, tmp_path):
    registered = await told(await run("register", "--stake", "2", "--json"))
    assert registered["stake"] == "2"
    expected = node_id(OPERATOR.address, public_key_of(identity_of(tmp_path / "node").peer_id))
    assert registered["node_id"] == f"0x{expected.hex()}"
    assert (await told(await run("register", "--stake", "2", "--json")))["stake"] == "2"
    assert (await told(await run("register", "--stake", "3.5", "--json")))["stake"] == "3.5"
    early = await run("withdraw")
    assert early.exit_code == 1
    asked = await told(await run("unbond", "--json"))
    assert 0 < asked["seconds_left"] <= 7201
    assert (await told(await run("unbond", "--json")))["unbonds_at"] == asked["unbonds_at"]
    assert "TooEarly" in (await run("withdraw")).output


async def test_what_is_owed_is_shown_and_collected_without_the_coordinator(place, run, tmp_path):
    await told(await run("register", "--stake", "2", "--json"))
    node_key = public_key_of(identity_of(tmp_path / "node").peer_id)
    debtor = Debtor(place.domain, COORDINATOR.address, node_id(OPERATOR.address, node_key))
    async with opened_ledger(place, COORDINATOR, tmp_path / "coordinator") as ledger:
        await ledger.submit(Deposit(10 * TOKEN))
        await ledger.submit(Reserve(debtor.node_id, 5 * TOKEN))
    store = WalletStore(tmp_path / "node" / "wallet.sqlite")
    store.keep_works(debtor, [], Earned(9 * TOKEN * 10**6, 1, 1))
    for seq, cumulative in ((1, 3 * TOKEN), (2, 7 * TOKEN)):
        credit = Credit(COORDINATOR.address, debtor.node_id, cumulative, seq, bytes(32))
        signed = SignedCredit(credit, sign(COORDINATOR.secret, place.domain, credit))
        store.keep_credit(debtor, signed, TOKEN // 2, ())
    store.close()

    (offline,) = (await told(await run("earnings", "--json", account=False)))["coordinators"]
    assert (offline["credited"], offline["claimable"]) == (str(7 * TOKEN), None)
    (before,) = (await told(await run("earnings", "--json")))["coordinators"]
    names = ("earned", "credited", "held", "claimed", "claimable", "reserved")
    assert [before[name] for name in names] == ["9", "7", "0.5", "0", "5", "5"]

    after = await told(await run("earnings", "--claim", "--json"))
    assert after["paid"] == "5"  # what the reservation holds, and no more
    assert [after["coordinators"][0][name] for name in names] == ["9", "7", "0.5", "5", "0", "0"]
    assert (await told(await run("earnings", "--claim", "--json")))["paid"] == "0"
    async with opened_ledger(place, OPERATOR, tmp_path / "operator") as ledger:
        assert await ledger.balance(OPERATOR.address) == 5 * TOKEN

    assert (await run("earnings", "--export", str(tmp_path / "credits.jsonl"))).exit_code == 0
    assert read_credits(tmp_path / "credits.jsonl")[0].credit.cumulative == 7 * TOKEN


async def test_mistakes_are_named(run, tmp_path):
    assert "has worked for money" in (await run("earnings", account=False)).output
    file = tmp_path / "node" / "wallet.sqlite"
    file.parent.mkdir()
    WalletStore(file).close()
    done = await run("earnings", "--claim", account=False)
    assert (done.exit_code, "--claim: needs --keystore" in done.output) == (2, True)


async def test_a_node_opens_its_wallet_as_its_settings_say(place, tmp_path, monkeypatch):
    monkeypatch.setattr("deserve_node.wallet.wallet.STANDARD_SCRYPT_N", 2)
    settings = NodeSettings(
        tmp_path / "node",
        "/ip4/127.0.0.1/tcp/1/p2p/x",
        operator=f"0x{OPERATOR.address.hex()}",
        deployment=str(tmp_path / "deployment.json"),
        price_prefill="0.5",
        price_decode="2",
    )
    identity = identity_of(tmp_path / "node")
    async with opened_wallet(settings, identity, "words") as wallet:
        assert wallet.prices == Prices(TOKEN // 2, 2 * TOKEN)
        assert wallet.domain == place.domain
        assert wallet.node_id == node_id(OPERATOR.address, public_key_of(identity.peer_id))
        engagement = wallet.engage(LedgerRef(place.chain_id, place.contract, COORDINATOR.address))
        await engagement.look()
        assert "reservation is used up" in engagement.alarm
    async with opened_wallet(dataclasses.replace(settings, operator=""), identity, "") as none:
        assert none is None
    for change, reason in (({"price_decode": "x"}, "price_decode"), ({"deployment": "nowhere"}, "deployment")):
        with pytest.raises(SettingsError, match=reason):
            async with opened_wallet(dataclasses.replace(settings, **change), identity, "words"):
                pass


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"operator": "0x12"}, "operator: '0x12' is no address"),
        ({"operator": "0x" + "11" * 20}, "deployment: missing"),
        ({"price_decode": "1"}, "price_decode: has no meaning without operator"),
        ({"confirmations": "1"}, "confirmations: has no meaning without operator"),
        (
            {"operator": "0x" + "11" * 20, "deployment": "file", "confirmations": "many"},
            "confirmations: 'many' is not finalized",
        ),
        ({"unpaid_chunks": 0}, "unpaid_chunks"),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path, flags, reason):
    with pytest.raises(SettingsError, match=reason):
        load_settings(tmp_path, {"coordinator": "/ip4/127.0.0.1/tcp/1/p2p/x", "name": "n", **flags})
