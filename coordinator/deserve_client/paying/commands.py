"""`deserve pay`: the payer's own process, which pays for batches while they run, with the key of each job's session."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deserve_client.api import CoordinatorClient
from deserve_client.download import download
from deserve_client.errors import EXIT_INTERRUPTED, ClientError, InputError, UnreachableError
from deserve_client.options import Connection, as_json, connection
from deserve_client.paying.charges import Overcharged
from deserve_client.paying.payer import Payer, Progress
from deserve_client.paying.purse import Purse, all_purses, purse_of
from deserve_client.paying.results import check_results
from deserve_client.payment_flags import key_flags, purses_option
from deserve_ledger.errors import KeystoreError
from deserve_ledger.keystore import obtain_passphrase

__all__ = ["pay"]

AGAIN_S = 10.0
"""Between tries where the coordinator does not answer: it may be away for long, and the payer has time."""


@click.command()
@click.argument("batch_ids", nargs=-1, metavar="[BATCH_ID]...")
@purses_option
@click.option("--once", is_flag=True, help="Pay what is due now, and end.")
@click.option("--status", "status_only", is_flag=True, help="Show what was signed; pay nothing, ask nobody.")
@click.option("--refund", "refund_only", is_flag=True, help="Take back what is left of an overdue job's escrow.")
@click.option("--poll-s", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Seconds between looks.")
@key_flags
@as_json
@connection
def pay(
    connect: Connection,
    batch_ids: tuple[str, ...],
    purses: Path,
    once: bool,
    status_only: bool,
    refund_only: bool,
    poll_s: float,
    keystore: Path | None,
    passphrase_file: Path | None,
    deployment: Path | None,
    ledger_rpc: str | None,
    as_json: bool,
) -> None:
    """Pay for batches that were submitted with --budget, until they have ended. Without an id: for all of them.

    Each voucher is held against the agreed price, the budget and, in the end, the results. A batch that is charged too
    much is paid no further, and the command ends with 1. Killed and started again, it goes on where it was.
    """
    chosen = [purse_of(purses, batch_id) for batch_id in batch_ids] or all_purses(purses)
    if status_only:
        show_status(chosen, as_json)
        return
    if refund_only:
        from deserve_client.paying.refunds import refund_all

        if keystore is None or deployment is None:
            raise InputError("--refund: needs --keystore and --deployment")
        asyncio.run(refund_all(chosen, keystore, passphrase_file, deployment, ledger_rpc, purses, as_json))
        return
    open_jobs = chosen if batch_ids else [purse for purse in chosen if not purse.order().ended]
    if not open_jobs:
        click.echo("nothing to pay for", err=True)
        return
    try:
        passphrase = obtain_passphrase(passphrase_file, purpose="the session keys")
    except KeystoreError as error:
        raise InputError(str(error)) from error
    try:
        failures = asyncio.run(pay_all(open_jobs, passphrase, connect, once=once, poll_s=poll_s, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("interrupted; deserve pay goes on where it was", err=True)
        sys.exit(EXIT_INTERRUPTED)
    if failures:
        raise failures[0] if len(failures) == 1 else ClientError("\n".join(map(str, failures)))


def show_status(purses: list[Purse], as_json: bool) -> None:
    found = []
    for purse in purses:
        order, signed = purse.order(), purse.signed()
        agreement = order.agreement
        found.append(
            {
                "batch_id": order.batch_id or None,
                "job_id": "0x" + agreement.job_id.hex(),
                "coordinator": "0x" + agreement.coordinator.hex(),
                "budget": str(agreement.budget),
                "signed": str(signed.cumulative),
                "seq": signed.seq,
                "deadline_s": order.deadline_s,
                "ended": order.ended,
                "folder": str(purse.folder),
            }
        )
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        state = "ended" if one["ended"] else "open"
        name = one["batch_id"] or "(no batch yet)"
        click.echo(f"{name}  {state}  {one['signed']} of {one['budget']}  {one['folder']}")


async def pay_all(
    purses: list[Purse], passphrase: str, connect: Connection, *, once: bool, poll_s: float, as_json: bool
) -> list[ClientError]:
    """Side by side; one that fails stops no other. Returns what went wrong."""
    done = await asyncio.gather(
        *(pay_one(purse, passphrase, connect, once=once, poll_s=poll_s, as_json=as_json) for purse in purses)
    )
    return [failure for failure in done if failure is not None]


async def pay_one(
    purse: Purse, passphrase: str, connect: Connection, *, once: bool, poll_s: float, as_json: bool
) -> ClientError | None:
    shown: Progress | None = None

    def show(progress: Progress) -> None:
        nonlocal shown
        if progress == shown:
            return
        shown = progress
        if as_json:
            amounts = {name: str(getattr(progress, name)) for name in ("charged", "signed", "budget")}
            click.echo(json.dumps(asdict(progress) | amounts))
        else:
            click.echo(f"{progress.batch_id}  {progress.status}  paid {progress.signed} of {progress.budget}")
        sys.stdout.flush()

    try:
        with purse.held():
            order = purse.order()
            async with connect(order.batch["base_url"]) as client:
                key = await asyncio.to_thread(purse.key, passphrase)

                async def check(batch: Mapping[str, Any], payment: Mapping[str, Any]) -> None:
                    await check_output(client, purse, batch, payment)

                payer = Payer(purse, key, client, check_results=check)
                while True:
                    try:
                        if once:
                            show(await payer.step())
                        else:
                            await payer.run(show, poll_s=poll_s)
                        return None
                    except UnreachableError as error:
                        if once:
                            raise
                        click.echo(f"{error}; again in {AGAIN_S:g} s", err=True)
                        await asyncio.sleep(AGAIN_S)
    except ClientError as error:
        stopped = "; nothing more is paid" if isinstance(error, Overcharged) else ""
        click.echo(f"{purse.folder.name}: {error}{stopped}", err=True)
        return error


async def check_output(
    client: CoordinatorClient, purse: Purse, batch: Mapping[str, Any], payment: Mapping[str, Any]
) -> None:
    """The results of a batch that has ended, held against what is charged for them."""
    agreement = purse.order().agreement
    charged, root = int(payment["charged"]), bytes.fromhex(str(payment["next"]["results_root"])[2:])
    if not batch.get("output_file_id"):
        if charged:
            raise Overcharged(f"charged {charged}, and there are no results")
        return
    with tempfile.TemporaryDirectory(prefix="deserve-") as directory:
        file = Path(directory) / "results.jsonl"
        await download(client, str(batch["output_file_id"]), file)
        await check_results(file, str(batch["id"]), agreement, charged, root, client)
