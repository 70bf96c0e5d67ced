"""What is left of a job goes back to its payer: needs the ledger and the payer's key, and no coordinator."""

from __future__ import annotations

import json
from pathlib import Path

import click

from deserve_client.errors import ClientError, InputError, UnreachableError
from deserve_client.paying.opening import refund
from deserve_client.paying.purse import Purse
from deserve_ledger.deployment import read_deployment
from deserve_ledger.errors import InvalidField, KeystoreError, LedgerError
from deserve_ledger.keystore import obtain_passphrase, open_keystore
from deserve_ledger.opening import opened_ledger

__all__ = ["refund_all"]


async def refund_all(
    purses: list[Purse],
    keystore: Path,
    passphrase_file: Path | None,
    deployment_file: Path,
    ledger_rpc: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Of every job that is overdue. Raises `ClientError` where one was named that is not, and no other was."""
    try:
        deployment = read_deployment(deployment_file)
        key = open_keystore(keystore, obtain_passphrase(passphrase_file, purpose=f"{keystore}"))
    except (InvalidField, KeystoreError) as error:
        raise InputError(str(error)) from error
    problems = []
    try:
        async with opened_ledger(deployment, key, data / "ledger" / key.address.hex(), url=ledger_rpc) as ledger:
            for purse in purses:
                order = purse.order()
                job = order.agreement.job_id
                try:
                    amount = await refund(ledger, job)
                except ClientError as error:
                    problems.append(f"{order.batch_id or job.hex()}: {error}")
                    continue
                purse.change(ended=True)
                shown = {"batch_id": order.batch_id or None, "job_id": "0x" + job.hex(), "refunded": str(amount)}
                click.echo(json.dumps(shown) if as_json else f"{order.batch_id or job.hex()}  {amount} came back")
    except LedgerError as error:
        raise UnreachableError(f"ledger: {error}") from error
    if problems:
        raise ClientError("\n".join(problems))
