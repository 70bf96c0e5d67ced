"""`deserve ledger devnet`: flags to a development chain's process, errors to exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["devnet"]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Kept blocks; one owner.")
@click.option("--listen", default="127.0.0.1:8545", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option(
    "--block-time-s", type=click.FloatRange(0), default=1.0, show_default=True, help="Age for an empty block; 0: none."
)
@click.option("--time-control", is_flag=True, help="Let tests turn the clock and take blocks back (evm_* methods).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
def devnet(data: Path, listen: str, block_time_s: float, time_control: bool, as_json: bool) -> None:
    """Run an EVM chain of one process, for machines without a chain. Its money is worth nothing.

    A transaction is on disk before it is answered; restarted on the same --data, the chain goes on as it was.
    """
    import asyncio
    import signal

    from deserve_ledger.devnet.process import run_devnet
    from deserve_ledger.errors import DevnetUnusable

    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")

    def ready(shown: dict[str, str | int | float]) -> None:
        line = "{rpc_url}  chain {chain_id}, block {block}, ready after {start_s} s".format(**shown)
        click.echo(json.dumps(shown) if as_json else line)

    try:
        ended_by = asyncio.run(run_devnet(data, host, int(port), block_time_s, time_control, ready))
    except DevnetUnusable as error:
        raise click.UsageError(str(error)) from error
    if ended_by is signal.SIGINT:
        raise KeyboardInterrupt
