"""`deserve node register | unbond | withdraw | earnings`: an operator's stake in a node, and what the node earned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deserve_ledger.account_options import AS_JSON, LedgerFlags, ledger_flags, run, show, waiting

if TYPE_CHECKING:
    from deserve_ledger.binding import Binding
    from deserve_ledger.interface import Ledger
    from deserve_node.wallet.earnings import Earnings

__all__ = ["data_option", "earnings", "register", "unbond", "withdraw"]


def _default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "deserve-net" / "node"


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=_default_data,
    show_default="~/.local/share/deserve-net/node",
    help="Directory of this node's identity and configuration.",
)


@click.command()
@data_option
@click.option("--stake", required=True, metavar="AMOUNT", help="In whole tokens; less than is there changes nothing.")
@click.option(
    "--receipt-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of the node's receipt key, mode 0600.  [default: --passphrase-file, or ask]",
)
@ledger_flags
@AS_JSON
def register(flags: LedgerFlags, data: Path, stake: str, receipt_passphrase_file: Path | None, as_json: bool) -> None:
    """Register this node with the operator's stake, so that coordinators pay it.

    --keystore is the operator's. The node's own receipt key is made in --data where there is none, and stays there.
    """
    from deserve_ledger.amounts import format_amount, parse_amount
    from deserve_ledger.keystore import obtain_passphrase
    from deserve_node.wallet.staking import stake_in

    async def stake_and_tell() -> dict[str, Any]:
        file = receipt_passphrase_file or flags.passphrase_file
        passphrase = obtain_passphrase(file, purpose=f"this node's receipt key in {data}")
        async with flags.account() as (ledger, place):
            bound = _binding(data, passphrase, ledger)
            amount = parse_amount("--stake", stake, place.decimals)
            record = await waiting("register", stake_in(ledger, bound, amount))
            return {
                "node_id": f"0x{bound.node_id.hex()}",
                "operator": f"0x{bound.operator.hex()}",
                "receipt_key": f"0x{bound.receipt_key.hex()}",
                "stake": format_amount(record.stake, place.decimals),
            }

    show(run(stake_and_tell()), as_json)


def _binding(data: Path, passphrase: str, ledger: Ledger) -> Binding:
    from deserve_ledger.binding import bind
    from deserve_network.errors import IdentityError
    from deserve_network.identity import load_or_create_identity
    from deserve_node.wallet.errors import WalletUnusable
    from deserve_node.wallet.wallet import NONCE, open_receipt_key

    try:
        identity = load_or_create_identity(data / "identity.key")
        key = open_receipt_key(data, passphrase)
    except (IdentityError, WalletUnusable) as error:
        raise click.UsageError(str(error)) from error
    return bind(ledger.domain, ledger.account, identity.secret, key, NONCE)


def _node_id(data: Path, operator: bytes) -> bytes:
    from deserve_ledger.identifiers import node_id
    from deserve_network.errors import IdentityError
    from deserve_network.identity import load_or_create_identity, public_key_of

    if not (data / "identity.key").exists():
        raise click.UsageError(f"--data: there is no node in {data}")
    try:
        return node_id(operator, public_key_of(load_or_create_identity(data / "identity.key").peer_id))
    except IdentityError as error:
        raise click.UsageError(str(error)) from error


@click.command()
@data_option
@ledger_flags
@AS_JSON
def unbond(flags: LedgerFlags, data: Path, as_json: bool) -> None:
    """Ask for the stake back: coordinators take this node no more, and `withdraw` works once the time is over."""
    from deserve_node.wallet.staking import unbond_node

    async def ask() -> dict[str, Any]:
        async with flags.account() as (ledger, _):
            node = _node_id(data, ledger.account)
            until_s = await waiting("unbond", unbond_node(ledger, node))
            return {"node_id": f"0x{node.hex()}", "unbonds_at": until_s, "seconds_left": until_s - await ledger.now_s()}

    show(run(ask()), as_json)


@click.command()
@data_option
@ledger_flags
@AS_JSON
def withdraw(flags: LedgerFlags, data: Path, as_json: bool) -> None:
    """Take the stake of a node back, after `unbond`; it is then the operator's balance (`deserve ledger withdraw`)."""
    from deserve_ledger.amounts import format_amount
    from deserve_node.wallet.staking import take_back

    async def take() -> dict[str, Any]:
        async with flags.account() as (ledger, place):
            node = _node_id(data, ledger.account)
            stake = await waiting("withdraw", take_back(ledger, node))
            balance = await ledger.balance(ledger.account)
            shown = {"stake": format_amount(stake, place.decimals), "balance": format_amount(balance, place.decimals)}
            return {"node_id": f"0x{node.hex()}"} | shown

    show(run(take()), as_json)


@click.command()
@data_option
@click.option(
    "--claim", "claims", is_flag=True, help="Collect it: the account of --keystore pays for the transactions."
)
@click.option(
    "--export", type=click.Path(path_type=Path, dir_okay=False), help="Write the credits for `deserve ledger claim`."
)
@ledger_flags
@AS_JSON
def earnings(flags: LedgerFlags, data: Path, claims: bool, export: Path | None, as_json: bool) -> None:
    """Show what this node has earned, by coordinator; with --claim, collect it. No coordinator need be there.

    With --deployment the ledger is asked what was claimed and what is reserved.
    """
    from deserve_ledger.credit_file import write_credits
    from deserve_node.wallet.earnings import collect, earnings_of
    from deserve_node.wallet.errors import WalletUnusable
    from deserve_node.wallet.store import WalletStore
    from deserve_node.wallet.wallet import STORE_FILE

    if not (data / STORE_FILE).exists():
        raise click.UsageError(f"--data: no node in {data} has worked for money")
    if claims and flags.keystore is None:
        raise click.UsageError("--claim: needs --keystore, of the account that pays for the transactions")

    async def look(store: WalletStore) -> tuple[list[Earnings], list[int], int | None]:
        if flags.deployment is None and flags.rpc_url is None:
            return await earnings_of(store, None), [], None
        async with flags.account() if claims else flags.reader() as (ledger, place):
            paid = [one.paid for one in await waiting("claim", collect(store, ledger))] if claims else []
            return await earnings_of(store, ledger), paid, place.decimals

    try:
        store = WalletStore(data / STORE_FILE)
        try:
            found, paid, decimals = run(look(store))
            if export is not None:
                newest = [store.newest(one.debtor) for one in found]
                with export.open("w") as file:
                    write_credits(file, [credit for credit in newest if credit is not None])
        finally:
            store.close()
    except WalletUnusable as error:
        raise click.ClickException(str(error)) from error
    shown = [_shown(one, decimals) for one in found]
    if as_json:
        click.echo(json.dumps({"coordinators": shown, "paid": _amount(sum(paid), decimals) if claims else None}))
        return
    for one in shown:
        click.echo("\n".join(f"{name:<12} {value}" for name, value in one.items() if value is not None) + "\n")
    if claims:
        click.echo(f"paid now     {_amount(sum(paid), decimals)}")
    elif not shown:
        click.echo("nothing yet")


def _amount(units: int | None, decimals: int | None) -> str | None:
    """Whole tokens where their places are known, else base units."""
    from deserve_ledger.amounts import format_amount

    return None if units is None else format_amount(units, decimals or 0)


def _shown(one: Earnings, decimals: int | None) -> dict[str, Any]:
    found = one.reservation
    return {
        "coordinator": f"0x{one.debtor.coordinator.hex()}",
        "node_id": f"0x{one.debtor.node_id.hex()}",
        "earned": _amount(one.earned, decimals),
        "credited": _amount(one.credited, decimals),
        "held": _amount(one.held, decimals),
        "claimed": _amount(None if found is None else found.claimed, decimals),
        "claimable": _amount(one.claimable, decimals),
        "reserved": _amount(None if found is None else found.amount, decimals),
        "releasing": _amount(None if found is None else found.releasing, decimals),
        "seq": one.seq,
        "fraud": "two credits under one number; the proof is kept" if one.fraud else None,
    }
