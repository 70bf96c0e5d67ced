"""Flags of a payer: what it will spend, with which key, on which ledger. Reads no key and imports no ledger."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from deserve_client.errors import InputError

__all__ = ["FILE", "PaymentFlags", "default_data", "key_flags", "payment_flags", "purses_option"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)


def default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "deserve-net" / "pay"


purses_option = click.option(
    "--purses",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_data,
    show_default="~/.local/share/deserve-net/pay",
    help="Directory of jobs and their session keys.",
)


@dataclass(frozen=True, slots=True)
class PaymentFlags:
    budget: str
    max_price: str | None
    account: str | None
    keystore: Path
    passphrase_file: Path | None
    deployment: Path
    ledger_rpc: str | None
    purses: Path
    pay: bool


def key_flags(command: Command) -> Command:
    """Whose key, and which ledger."""
    for option in (
        click.option(
            "--ledger-rpc", metavar="URL", help="Where to reach the ledger, if not where the deployment says."
        ),
        click.option("--deployment", type=FILE, help="Where the ledger is."),
        click.option("--passphrase-file", type=FILE, help="Of the key, mode 0600.  [default: ask]"),
        click.option("--keystore", type=FILE, help="Key of the account that pays."),
    ):
        command = option(command)
    return command


def payment_flags(command: Command) -> Command:
    """Flags of a batch that is paid for; the command gets `payment`, None where nobody pays."""

    @click.option("--budget", metavar="AMOUNT", help="Pay for it: the most that it may cost, in whole tokens of money.")
    @click.option(
        "--max-price",
        metavar="PREFILL,DECODE",
        help="Per million layer-tokens at most, everything included.  [default: as quoted]",
    )
    @click.option("--account", metavar="ADDRESS", help="The coordinator's, where you know it.")
    @key_flags
    @purses_option
    @click.option("--pay", is_flag=True, help="Start a process that pays while the batch runs.")
    @functools.wraps(command)
    def wrapped(
        budget: str | None,
        max_price: str | None,
        account: str | None,
        keystore: Path | None,
        passphrase_file: Path | None,
        deployment: Path | None,
        ledger_rpc: str | None,
        purses: Path,
        pay: bool,
        **parameters: Any,
    ) -> Any:
        given = {
            "--max-price": max_price,
            "--account": account,
            "--keystore": keystore,
            "--passphrase-file": passphrase_file,
            "--deployment": deployment,
            "--ledger-rpc": ledger_rpc,
            "--pay": pay or None,
        }
        if budget is None:
            if named := next((flag for flag, value in given.items() if value is not None), None):
                raise InputError(f"{named}: has no meaning without --budget")
            return command(payment=None, **parameters)
        if keystore is None or deployment is None:
            raise InputError(f"--budget: needs {'--keystore' if keystore is None else '--deployment'}, too")
        if pay and passphrase_file is None:
            raise InputError("--pay: needs --passphrase-file; the process that pays has no terminal to ask at")
        flags = PaymentFlags(budget, max_price, account, keystore, passphrase_file, deployment, ledger_rpc, purses, pay)
        return command(payment=flags, **parameters)

    return wrapped  # type: ignore[return-value]
