"""A coordinator that keeps an embedded ledger itself, and what its operator says about money on the command line."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from deserve_coordinator.commands import coordinator
from deserve_coordinator.config import CoordinatorConfig
from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.money.embedded_journal import DEFAULT_TERMS, read_terms
from deserve_coordinator.money.opening import LedgerConfig
from deserve_coordinator.money.policy import parse_margin
from deserve_coordinator.server import ServedModel, run_coordinator
from deserve_ledger.deployment import read_deployment
from deserve_ledger.keystore import create_keystore
from deserve_network.control_messages import ModelRef

MODEL = ServedModel(ModelRef("demo", "", "digest", "float32"), 4, 64, lambda endpoint, body: None)


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerConfig:
    keystore, passphrase = tmp_path / "key.json", tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("open sesame\n")
    create_keystore(keystore, "open sesame", scrypt_n=2)
    return LedgerConfig(None, keystore, passphrase)


async def test_an_embedded_ledger_is_served_beside_the_api_and_published_in_a_file(
    tmp_path: Path, ledger: LedgerConfig
) -> None:
    config = CoordinatorConfig(model="demo", data=tmp_path / "data", http="127.0.0.1:0", ledger=ledger)
    owners = set()
    for _ in range(2):  # the second start goes on with the same journal
        async with run_coordinator(config, MODEL) as running, aiohttp.ClientSession() as session:
            deployment = read_deployment(tmp_path / "data" / "ledger.json")
            async with session.get(f"{deployment.url}/genesis") as response:
                genesis = await response.json()
            owners.add(genesis["owner"])
            headers = {"Authorization": f"Bearer {running.api_key}"}
            async with session.get(f"{running.base_url}/settlement", headers=headers) as response:
                assert (await response.json())["coordinator"] == f"0x{genesis['owner']}"
            async with session.get(f"{running.base_url.removesuffix('/v1')}/metrics") as response:
                assert "deserve_credits_signed" in await response.text()
    assert owners == {deployment.owner.hex()}


async def test_a_keystore_that_does_not_open_is_named(tmp_path: Path, ledger: LedgerConfig) -> None:
    assert ledger.passphrase_file is not None
    ledger.passphrase_file.write_text("guess\n")
    config = CoordinatorConfig(model="demo", data=tmp_path / "data", http="127.0.0.1:0", ledger=ledger)
    with pytest.raises(ConfigurationError, match=r"key\.json: wrong passphrase"):
        async with run_coordinator(config, MODEL):
            pass


def test_terms_come_from_a_file_that_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "terms.toml"
    file.write_text("min_stake = 5\n")
    assert read_terms(file).min_stake == 5
    assert read_terms(file).unbonding_s == DEFAULT_TERMS.unbonding_s
    for text, named in (("stake = 5", "stake"), ("min_stake = -1", "min_stake"), ("min_stake", "terms.toml")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=named):
            read_terms(file)


def test_a_margin_is_a_share() -> None:
    assert [parse_margin(text) for text in ("5%", "0.05", "0", "12.5%", "1")] == [50_000, 50_000, 0, 125_000, 10**6]
    for text in ("", "five", "-1%", "0.0000001", "1100%"):
        with pytest.raises(ConfigurationError, match="--price-margin"):
            parse_margin(text)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ledger", "embedded"], "--keystore"),
        (["--ledger", "evm", "--keystore", "key"], "--deployment"),
        (["--keystore", "key"], "--keystore: has no effect"),
        (["--confirmations", "3"], "--confirmations: has no effect"),
        (["--ledger", "embedded", "--keystore", "key", "--confirmations", "3"], "--confirmations: has no effect"),
        (
            ["--ledger", "evm", "--keystore", "key", "--deployment", "file", "--confirmations", "-1"],
            "--confirmations: '-1' is not finalized",
        ),
        (["--ledger", "embedded", "--keystore", "key", "--price-margin", "much"], "--price-margin much"),
    ],
)
def test_a_flag_about_money_that_is_wrong_or_missing_is_named(tmp_path: Path, flags: list[str], named: str) -> None:
    done = CliRunner().invoke(coordinator, ["start", "--model", "demo", "--data", str(tmp_path), *flags])
    assert done.exit_code == 2
    assert named in done.output


async def test_an_operator_credits_a_prepaid_account(tmp_path: Path) -> None:
    missing = CliRunner().invoke(coordinator, ["account", "credit", "default", "5", "--data", str(tmp_path)])
    assert missing.exit_code == 2
    async with run_coordinator(CoordinatorConfig(model="demo", data=tmp_path, http="127.0.0.1:0"), MODEL):
        for _ in range(2):
            done = CliRunner().invoke(coordinator, ["account", "credit", "default", "5", "--data", str(tmp_path)])
            assert done.exit_code == 0, done.output
    assert "10 base units" in CliRunner().invoke(coordinator, ["account", "show", "--data", str(tmp_path)]).output
    wrong = CliRunner().invoke(coordinator, ["account", "credit", "somebody", "5", "--data", str(tmp_path)])
    assert wrong.exit_code == 2
