"""Flags that say which ledger and whose account, and the account that they open."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deserve_ledger.errors import InvalidField, KeystoreError, LedgerError
from deserve_ledger.finality import Confirmations, parse_confirmations

if TYPE_CHECKING:
    from deserve_ledger.deployment import Deployment
    from deserve_ledger.interface import Ledger
    from deserve_ledger.keystore import Key

__all__ = ["ADDRESS", "AS_JSON", "CONFIRMATIONS", "LedgerFlags", "ledger_flags", "run", "show", "waiting"]

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
_FIRST_WORD_S = 2.0
_NEXT_WORD_S = 15.0

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])


class Address(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """0x and 40 hex digits, in any case; 20 bytes for the command."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, bytes):
            return value
        try:
            address = bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            address = b""
        if len(address) != 20:
            self.fail(f"{value!r} is no address: 0x and 40 hex digits", param, ctx)
        return address


ADDRESS = Address()


def _confirmations(ctx: click.Context, param: click.Parameter, value: str | None) -> Confirmations | None:
    try:
        return None if value is None else parse_confirmations("--confirmations", value)
    except InvalidField as error:
        raise click.UsageError(str(error)) from error


CONFIRMATIONS = click.option(
    "--confirmations",
    metavar="N|finalized",
    callback=_confirmations,
    help="Blocks on top of one that counts as final.  [default: 12; 0 on development chains]",
)


@dataclass(frozen=True, slots=True)
class LedgerFlags:
    deployment: Path | None
    rpc_url: str | None
    contract: bytes | None
    keystore: Path | None
    passphrase_file: Path | None
    state: Path | None
    confirmations: Confirmations | None = None

    async def place(self) -> Deployment:
        """Where the ledger is. Raises `click.UsageError` and `LedgerError`."""
        from deserve_ledger.deployment import read_deployment

        if self.deployment is not None:
            if self.contract is not None:
                raise click.UsageError("--contract: the deployment of --deployment names the contract already")
            return read_deployment(self.deployment)
        if self.rpc_url is None or self.contract is None:
            raise click.UsageError("no ledger: give --deployment, or --rpc-url and --contract")
        from deserve_ledger.evm.deploy import describe

        return await describe(self.rpc_url, self.contract)

    def unlock(self) -> Key:
        """The account's key. Raises `click.UsageError` and `KeystoreError`."""
        from deserve_ledger.keystore import obtain_passphrase, open_keystore

        if self.keystore is None:
            raise click.UsageError("no account: give --keystore (`deserve ledger key create` makes one)")
        return open_keystore(self.keystore, obtain_passphrase(self.passphrase_file, purpose=str(self.keystore)))

    def state_folder(self) -> Path:
        """Where calls under way are remembered: beside the key, as there is one such directory an account."""
        if self.state is not None:
            return self.state
        if self.keystore is None:
            raise click.UsageError("no account: give --keystore or --state")
        return self.keystore.with_name(self.keystore.name + ".state")

    @asynccontextmanager
    async def account(self) -> AsyncIterator[tuple[Ledger, Deployment]]:
        """The ledger as this account sees it."""
        from deserve_ledger.opening import opened_ledger

        key, place = self.unlock(), await self.place()
        opening = opened_ledger(place, key, self.state_folder(), url=self.rpc_url, confirmations=self.confirmations)
        async with opening as ledger:
            yield ledger, place

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[tuple[Ledger, Deployment]]:
        """The ledger for questions only: no key is asked for."""
        import tempfile

        from deserve_ledger.keystore import Key
        from deserve_ledger.opening import opened_ledger

        place = await self.place()
        with tempfile.TemporaryDirectory(prefix="deserve-ledger-") as folder:
            opening = opened_ledger(
                place, Key.generate(), Path(folder), url=self.rpc_url, confirmations=self.confirmations
            )
            async with opening as ledger:
                yield ledger, place


def ledger_flags(command: Command) -> Command:
    """The command gets `flags: LedgerFlags`."""
    path = click.Path(path_type=Path, dir_okay=False)

    @click.option("--deployment", type=path, help="File of `deserve ledger deploy`.")
    @click.option("--rpc-url", metavar="URL", help="The chain's endpoint, in place of the deployment's.")
    @click.option("--contract", type=ADDRESS, help="With --rpc-url, in place of --deployment.")
    @click.option("--keystore", type=path, help="The account's key file.")
    @click.option("--passphrase-file", type=path, help="File with the passphrase, mode 0600.  [default: ask]")
    @click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where calls under way are remembered.  [default: beside the key]",
    )
    @CONFIRMATIONS
    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        names = LedgerFlags.__dataclass_fields__
        flags = LedgerFlags(**{name: given.pop(name) for name in names})
        return command(flags=flags, **given)

    return wrapped  # type: ignore[return-value]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine; errors of the ledger become those of the command line."""
    try:
        return asyncio.run(work)
    except (InvalidField, KeystoreError) as error:
        raise click.UsageError(str(error)) from error
    except LedgerError as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error


async def waiting(what: str, work: Awaitable[Result]) -> Result:
    """Await `work`; where it takes long, say on stderr what is waited for."""
    begun, task = time.monotonic(), asyncio.ensure_future(work)
    patience_s = _FIRST_WORD_S
    while not (await asyncio.wait({task}, timeout=patience_s))[0]:
        waited_s = time.monotonic() - begun
        click.echo(f"{what}: waiting for the chain, {waited_s:.0f} s so far; it is safe to interrupt", err=True)
        patience_s = _NEXT_WORD_S
    return task.result()


def show(shown: dict[str, Any], as_json: bool) -> None:
    """One value a line, or all in one JSON object."""
    if as_json:
        click.echo(json.dumps(shown))
        return
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {value}")
