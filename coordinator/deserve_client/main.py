"""The `deserve` command: a click group that knows its subcommands by name and imports one only when it is run.

The short help comes from the table below, so that `deserve --help` imports nothing but click. Every room defines its
own commands; this module knows where they are and what exit codes mean (see `deserve_client.errors`).
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from deserve_client.errors import EXIT_FAILED, EXIT_INTERRUPTED, ClientError

__all__ = ["deserve", "main"]

OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of a write to a disk that is full or broken; click itself answers a reader that has gone."""


@dataclass(frozen=True, slots=True)
class Subcommand:
    """Where a subcommand is (`module:attribute`), what `deserve --help` says of it, and the pip extra it needs."""

    path: str
    short_help: str
    extra: str = ""


SUBCOMMANDS = {
    "batch": Subcommand("deserve_client.commands:batch", "Submit batches of prompts and fetch their results."),
    "coordinator": Subcommand(
        "deserve_coordinator.commands:coordinator", "Run a coordinator: the batch API and its rings.", "coordinator"
    ),
    "ledger": Subcommand("deserve_ledger.commands:ledger", "Keys, deposits, claims and the chain.", "ledger"),
    "model": Subcommand("deserve_models.commands:model", "Find, fetch and inspect models.", "node"),
    "node": Subcommand("deserve_node.commands:node", "Lend this machine to a network.", "node"),
    "pay": Subcommand("deserve_client.paying.commands:pay", "Pay for batches while they run.", "ledger"),
    "plan": Subcommand("deserve_node.plan_commands:plan", "Plan a ring on paper: what it would do, and why.", "node"),
    "testnet": Subcommand("deserve_testnet.commands:testnet", "Run a whole network on this machine.", "node"),
}

PARTS = {
    "ledger": {
        "calibrate": Subcommand("deserve_node.audit.commands:calibrate", "Measure what audits tolerate.", "node"),
    },
}
"""Commands of a group that another room defines."""


class LazyGroup(click.Group):
    """A group whose subcommands are the entries of `SUBCOMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        subcommand = SUBCOMMANDS.get(cmd_name)
        if subcommand is None:
            return None
        command = _load(cmd_name, subcommand)
        if isinstance(command, click.Group):
            for name, part in PARTS.get(cmd_name, {}).items():
                command.add_command(_load(f"{cmd_name} {name}", part), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name].short_help) for name in self.list_commands(ctx)])


def _load(name: str, subcommand: Subcommand) -> click.Command:
    module_name, attribute = subcommand.path.split(":")
    try:
        command = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not subcommand.extra or missing.startswith("deserve_"):
            raise
        raise click.UsageError(
            f"`deserve {name}` needs the package {missing!r}: pip install 'deserve-net[{subcommand.extra}]'"
        ) from error
    if not isinstance(command, click.Command):
        raise TypeError(f"{subcommand.path} is no click command")
    return command


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    # importlib.metadata costs 30 ms of imports: only here.
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"deserve {version('deserve-net')}")
    except PackageNotFoundError:
        click.echo("deserve (not installed: running from a checkout)")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def deserve() -> None:
    """Offline batch inference over a network of volunteers' GPUs.

    Exit codes: 0 ok, 1 failed, 2 usage or bad input, 3 some rows failed, 4 network, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `deserve` command; always ends in `SystemExit`.

    A subcommand ends with another code than 0 by `ctx.exit(code)`, a `click.ClickException` or a `ClientError`.
    """
    try:
        # Not standalone: click would answer Ctrl-C with exit code 1.
        result = deserve.main(args=arguments, prog_name="deserve", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ClientError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS:
            raise
        # What stdout still holds would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
        sys.exit(EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
