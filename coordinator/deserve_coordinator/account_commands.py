"""`deserve coordinator account`: prepaid accounts, for payers who have none on the ledger. The coordinator keeps them.

They are rows in its own store, which is changed here directly: whoever may write DATA decides what is owed there.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import click

__all__ = ["account"]


@click.group()
def account() -> None:
    """Prepaid accounts of this coordinator."""


@account.command()
@click.argument("name")
@click.argument("amount", type=click.IntRange(1))
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True)
def credit(name: str, amount: int, data: Path) -> None:
    """Add AMOUNT base units, that were paid by other means, to the account NAME ("default": the API key's)."""
    from deserve_coordinator.store.escrow_queries import credit_account

    if name != "default":
        raise click.UsageError(f"NAME {name!r}: the API key has the account 'default', and there is no other")
    with contextlib.closing(_store(data)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        balance = credit_account(connection, name, amount)
        connection.execute("COMMIT")
    click.echo(f"{name} has {balance} base units")


@account.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True)
def show(data: Path) -> None:
    """What the account has, the budgets of open batches deducted."""
    from deserve_coordinator.store.escrow_queries import balance

    with contextlib.closing(_store(data)) as connection:
        click.echo(f"default has {balance(connection, 'default') or 0} base units")


def _store(data: Path) -> sqlite3.Connection:
    """The store of a coordinator, which may be running: SQLite lets one write after the other."""
    file = data / "coordinator.db"
    if not file.exists():
        raise click.UsageError(f"--data {data}: no coordinator keeps its state here")
    connection = sqlite3.connect(file, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection
