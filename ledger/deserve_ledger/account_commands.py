"""`deserve ledger status`, `deposit`, `withdraw`, `claim` and `export`: what an account does with its own money."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deserve_ledger.account_options import ADDRESS, AS_JSON, LedgerFlags, ledger_flags, run, show, waiting

if TYPE_CHECKING:
    from deserve_ledger.deployment import Deployment
    from deserve_ledger.interface import Ledger
    from deserve_ledger.records import Settled

__all__ = ["claim", "deposit", "export", "status", "withdraw"]

_PAGE = 1000


@click.command()
@ledger_flags
@click.option("--account", type=ADDRESS, help="Whose balance.  [default: that of --keystore]")
@AS_JSON
def status(flags: LedgerFlags, account: bytes | None, as_json: bool) -> None:
    """Show a ledger, its terms, and what an account has there. Needs no passphrase."""
    from deserve_ledger.keystore import keystore_address

    async def look() -> dict[str, Any]:
        whose = account or (keystore_address(flags.keystore) if flags.keystore is not None else None)
        async with flags.reader() as (ledger, place):
            return await _status(ledger, place, whose)

    show(run(look()), as_json)


async def _status(ledger: Ledger, place: Deployment, account: bytes | None) -> dict[str, Any]:
    from dataclasses import asdict

    from deserve_ledger.amounts import format_amount

    totals = asdict(await ledger.totals())
    shown: dict[str, Any] = {
        "url": place.url,
        "chain_id": place.chain_id,
        "contract": f"0x{place.contract.hex()}",
        "token": f"0x{place.token.hex()}",
        "time_s": await ledger.now_s(),
        **{name: format_amount(amount, place.decimals) for name, amount in totals.items()},
        **asdict(ledger.terms),
    }
    if account is None:
        return shown
    record = await ledger.coordinator(account)
    shown |= {
        "account": f"0x{account.hex()}",
        "balance": format_amount(await ledger.balance(account), place.decimals),
        "bond": format_amount(record.bond, place.decimals),
    }
    outside: Any = ledger
    if not place.embedded:
        shown |= {
            "tokens_outside": format_amount(await outside.tokens(account), place.decimals),
            "ether_for_gas": format_amount(await outside.ether_wei(account), 18),
        }
    return shown


def _settled(what: str, amount: int, settled: Settled, place: Deployment, left: int) -> dict[str, Any]:
    from deserve_ledger.amounts import format_amount

    return {
        what: format_amount(amount, place.decimals),
        "balance": format_amount(left, place.decimals),
        "transaction": f"0x{settled.reference.hex()}",
        "gas": settled.gas,
    }


@click.command()
@click.argument("amount")
@ledger_flags
@AS_JSON
def deposit(flags: LedgerFlags, amount: str, as_json: bool) -> None:
    """Bring AMOUNT of the account's tokens, like 12.5, into the ledger.

    Interrupted, ask for the same amount again: it goes on where it was, and deposits once.
    """
    from deserve_ledger.amounts import parse_amount
    from deserve_ledger.calls import Deposit

    async def pay_in() -> dict[str, Any]:
        async with flags.account() as (ledger, place):
            units = parse_amount("AMOUNT", amount, place.decimals)
            settled = await waiting("deposit", ledger.submit(Deposit(units)))
            return _settled("deposited", units, settled, place, await ledger.balance(ledger.account))

    show(run(pay_in()), as_json)


@click.command()
@click.argument("amount")
@ledger_flags
@AS_JSON
def withdraw(flags: LedgerFlags, amount: str, as_json: bool) -> None:
    """Take AMOUNT of the account's balance, like 12.5 or all, out of the ledger."""
    from deserve_ledger.amounts import parse_amount
    from deserve_ledger.calls import Withdraw

    async def pay_out() -> dict[str, Any]:
        async with flags.account() as (ledger, place):
            all_of_it = amount == "all"
            units = (
                await ledger.balance(ledger.account) if all_of_it else parse_amount("AMOUNT", amount, place.decimals)
            )
            settled = await waiting("withdraw", ledger.submit(Withdraw(units)))
            return _settled("withdrawn", units, settled, place, await ledger.balance(ledger.account))

    show(run(pay_out()), as_json)


@click.command()
@click.argument("credits_file", metavar="CREDITS", type=click.Path(path_type=Path, dir_okay=False))
@ledger_flags
@AS_JSON
def claim(flags: LedgerFlags, credits_file: Path, as_json: bool) -> None:
    """Redeem the signed credits in the file CREDITS. Each node's operator is paid, whoever claims.

    What would pay nothing costs no transaction, so it may be run as often as one likes.
    """
    from deserve_ledger.amounts import format_amount
    from deserve_ledger.claiming import newest_credits, redeem
    from deserve_ledger.credit_file import read_credits

    async def collect() -> None:
        read = read_credits(credits_file)
        async with flags.account() as (ledger, place):
            for one in newest_credits(ledger.domain, read):
                claimed = await waiting("claim", redeem(ledger, one))
                paid, owes = (format_amount(value, place.decimals) for value in (claimed.paid, claimed.owes))
                coordinator, node = f"0x{claimed.coordinator.hex()}", f"0x{claimed.node_id.hex()}"
                if as_json:
                    shown = {"coordinator": coordinator, "node_id": node, "paid": paid, "owes": owes}
                    click.echo(json.dumps(shown))
                    continue
                rest = f"; {owes} more is owed and not covered" if claimed.owes else ""
                click.echo(f"{paid} from {coordinator} to node {node}{rest}")

    run(collect())


@click.command()
@ledger_flags
@click.option("--account", type=ADDRESS, help="Only events that concern this address.")
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--after", type=int, default=-1, help="Position of the last event that is known already.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: standard output]")
def export(flags: LedgerFlags, account: bytes | None, kind: str, after: int, output: Path | None) -> None:
    """Write the ledger's final events for accounting, oldest first."""
    from deserve_ledger.accounting import concerns, line_of, writer

    async def write(file: Any) -> None:
        put, position = writer(file, kind), after
        async with flags.reader() as (ledger, place):
            outside: Any = ledger
            while events := await ledger.events(position, _PAGE):
                for event in events:
                    if account is None or concerns(event, account):
                        time_s = None if place.embedded else await outside.time_of(event.position)
                        put(line_of(event, time_s, place.decimals))
                position = events[-1].position

    if output is None:
        run(write(sys.stdout))
        return
    with click.open_file(str(output), "w", encoding="utf-8", atomic=True) as file:
        run(write(file))
