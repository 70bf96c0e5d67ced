"""`deserve ledger key`: make a key file, and show whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from deserve_ledger.errors import KeystoreError
from deserve_ledger.keystore import STANDARD_SCRYPT_N, create_keystore, keystore_address, obtain_passphrase

__all__ = ["key"]

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the passphrase, mode 0600.  [default: ask]",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.group()
def key() -> None:
    """Keys in Ethereum keystore files."""


@key.command()
@_file
@_passphrase_file
@click.option(
    "--scrypt-n",
    type=click.IntRange(2, 2**21),
    default=STANDARD_SCRYPT_N,
    show_default=True,
    help="Cost of a guess at the passphrase, a power of two.",
)
@_as_json
def create(file: Path, passphrase_file: Path | None, scrypt_n: int, as_json: bool) -> None:
    """Write a new key to FILE, which must not exist."""
    if scrypt_n & (scrypt_n - 1):
        raise click.BadParameter(f"{scrypt_n} is no power of two", param_hint="--scrypt-n")
    if file.exists():
        raise click.ClickException(f"{file}: there is a key already, and it is kept")
    try:
        passphrase = obtain_passphrase(passphrase_file, purpose=f"the new key {file}", confirm=True)
        _show(create_keystore(file, passphrase, scrypt_n=scrypt_n).address, file, as_json)
    except KeystoreError as error:
        raise click.ClickException(str(error)) from error


@key.command()
@_file
@_as_json
def show(file: Path, as_json: bool) -> None:
    """Show the address of the key in FILE; needs no passphrase."""
    try:
        _show(keystore_address(file), file, as_json)
    except KeystoreError as error:
        raise click.ClickException(str(error)) from error


def _show(address: bytes, file: Path, as_json: bool) -> None:
    from eth_utils.address import to_checksum_address

    shown = to_checksum_address(address)
    click.echo(json.dumps({"address": shown, "file": str(file)}) if as_json else f"{shown}  {file}")
