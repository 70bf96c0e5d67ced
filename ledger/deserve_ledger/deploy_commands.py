"""`deserve ledger deploy` and `faucet`: a contract for a new network, and play money on a development chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deserve_ledger.account_options import (
    ADDRESS,
    AS_JSON,
    CONFIRMATIONS,
    LedgerFlags,
    ledger_flags,
    run,
    show,
    waiting,
)
from deserve_ledger.devnet.accounts import development_key

if TYPE_CHECKING:
    from deserve_ledger.deployment import Deployment

__all__ = ["deploy", "faucet"]

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
_AMOUNTS = ("min_stake", "challenge_bond")


@click.command()
@click.option("--rpc-url", metavar="URL", required=True, help="The chain's endpoint.")
@click.option(
    "--keystore",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Who pays the gas.  [default: the first account of a development chain]",
)
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help="Mode 0600.  [default: ask]")
@click.option("--token", type=ADDRESS, help="The ERC-20 that is money here.")
@click.option("--test-token", is_flag=True, help="Make a new, worthless one instead; all of it is the deployer's.")
@click.option("--deployment", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--challenge-window-s", type=int, default=_DAY_S, show_default=True, help="To challenge a receipt.")
@click.option("--audit-retention-s", type=int, default=_DAY_S, show_default=True, help="How long evidence is kept.")
@click.option("--unbonding-s", type=int, default=3 * _DAY_S, show_default=True, help="Above the two together.")
@click.option("--refund-grace-s", type=int, default=_DAY_S, show_default=True, help="After a job's deadline.")
@click.option("--release-delay-s", type=int, default=2 * _DAY_S, show_default=True, help="Of reservations.")
@click.option("--draw-delay-blocks", type=int, default=5, show_default=True, help="From challenge to panel.")
@click.option("--commit-period-s", type=int, default=6 * _HOUR_S, show_default=True, help="Of a panel's votes.")
@click.option("--reveal-period-s", type=int, default=6 * _HOUR_S, show_default=True, help="Of a panel's votes.")
@click.option("--min-stake", default="100", show_default=True, help="Of a node, in tokens.")
@click.option("--challenge-bond", default="10", show_default=True, help="In tokens.")
@CONFIRMATIONS
@AS_JSON
def deploy(**given: Any) -> None:
    """Make the contract. Its terms are fixed for good, and nobody has a say in it afterwards.

    Writes where it is to --deployment, for everybody who uses it.
    """
    from deserve_ledger.deployment import write_deployment

    if (given["token"] is None) == (not given["test_token"]):
        raise click.UsageError("give either --token or --test-token")
    file: Path = given["deployment"]
    if file.exists():
        raise click.UsageError(f"--deployment: {file} is there already, and kept")

    async def make() -> Deployment:
        made = await _deploy(given)
        write_deployment(file, made)
        return made

    made = run(make())
    shown = {
        "contract": f"0x{made.contract.hex()}",
        "token": f"0x{made.token.hex()}",
        "chain_id": made.chain_id,
        "block": made.block,
        "deployment": str(file),
    }
    show(shown, given["as_json"])


async def _deploy(given: dict[str, Any]) -> Deployment:
    from deserve_ledger.amounts import parse_amount
    from deserve_ledger.evm import deploy as contracts
    from deserve_ledger.records import Terms

    url, token = given["rpc_url"], given["token"]
    chain_id, decimals = await contracts.ask(url, token)
    periods = {name: given[name] for name in Terms.__dataclass_fields__ if name not in _AMOUNTS}
    amounts = {name: parse_amount(f"--{name.replace('_', '-')}", given[name], decimals) for name in _AMOUNTS}
    flags = LedgerFlags(None, url, None, given["keystore"], given["passphrase_file"], None)
    if flags.keystore is None:
        _check_development(chain_id, "--keystore: who pays the gas?")
        secret, state = development_key(0), None
    else:
        secret, state = flags.unlock().secret, flags.state_folder()
    terms = Terms(**{**periods, **amounts})
    return await waiting(
        "deploy", contracts.deploy(url, secret, terms, token=token, state=state, confirmations=given["confirmations"])
    )


def _check_development(chain_id: int, why: str) -> None:
    from deserve_ledger.finality import DEVELOPMENT_CHAINS

    if chain_id not in DEVELOPMENT_CHAINS:
        raise click.UsageError(f"{why} Chain {chain_id} is no development chain")


@click.command()
@click.argument("address", type=ADDRESS)
@ledger_flags
@click.option("--tokens", default="1000", show_default=True, help="Of the test token.")
@click.option("--ether", default="10", show_default=True, help="For gas.")
def faucet(flags: LedgerFlags, address: bytes, tokens: str, ether: str) -> None:
    """Give ADDRESS ether and test tokens, on a development chain.

    They are the first development account's, which holds all test tokens where it deployed them.
    """
    from deserve_ledger.amounts import parse_amount
    from deserve_ledger.devnet.faucet import give

    async def pour() -> None:
        place = await flags.place()
        _check_development(place.chain_id, "--deployment: this money is worth something.")
        units = parse_amount("--tokens", tokens, place.decimals)
        wei = parse_amount("--ether", ether, 18)
        url = flags.rpc_url or place.url
        await waiting("faucet", give(url, address, ether_wei=wei, token=place.token, tokens=units))

    run(pour())
    click.echo(f"0x{address.hex()} has {tokens} tokens and {ether} ether more")
