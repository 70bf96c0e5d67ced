"""A batch that is paid for: reads the payer's flags, opens the job, creates the batch, and starts who pays for it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deserve_client.api import CoordinatorClient, batch_body
from deserve_client.errors import InputError, UnreachableError
from deserve_client.options import Connection
from deserve_client.paying.opening import GRACE_S, Wish, draw_up, open_job
from deserve_client.paying.payer import Payer
from deserve_client.paying.purse import Purse
from deserve_client.payment_flags import PaymentFlags
from deserve_ledger.amounts import parse_amount
from deserve_ledger.deployment import Deployment, read_deployment
from deserve_ledger.errors import InvalidField, KeystoreError, LedgerError
from deserve_ledger.keystore import Key, obtain_passphrase, open_keystore
from deserve_ledger.opening import opened_ledger
from deserve_ledger.prices import parse_prices

__all__ = ["Means", "pay_in_background", "read_address", "read_means", "submit_paid"]

_SECONDS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Means:
    """What the flags say, read."""

    wish: Wish
    key: Key
    passphrase: str
    deployment: Deployment


def read_means(flags: PaymentFlags) -> Means:
    """Before anything is uploaded. Raises `InputError` naming the flag."""
    try:
        deployment = read_deployment(flags.deployment)
        budget = parse_amount("--budget", flags.budget, deployment.decimals)
        asked = flags.max_price
        prices = None if asked is None else parse_prices("--max-price", asked, deployment.decimals)
        passphrase = obtain_passphrase(flags.passphrase_file, purpose=f"{flags.keystore}")
        key = open_keystore(flags.keystore, passphrase)
    except (InvalidField, KeystoreError) as error:
        raise InputError(str(error)) from error
    account = None if flags.account is None else read_address("--account", flags.account)
    return Means(Wish(budget, prices, account), key, passphrase, deployment)


def read_address(flag: str, text: str) -> bytes:
    """20 bytes. Raises `InputError`."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise InputError(f"{flag}: {text!r} is no address like 0x5aAe…")
    return bytes.fromhex(text[2:])


def window_seconds(text: str) -> int:
    """ "24h", "90m", "7d". Raises `InputError`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if match is None:
        raise InputError(f"--completion-window: {text!r} is no whole number of minutes, hours or days like 24h")
    return int(match[1]) * _SECONDS[match[2]]


async def submit_paid(
    client: CoordinatorClient,
    flags: PaymentFlags,
    means: Means,
    file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str],
    codecs: Sequence[str],
) -> Purse:
    """The purse of a job that is open, and of a batch that exists. Raises the client's errors."""
    session = Key.generate()
    state = flags.purses / "ledger" / means.key.address.hex()
    try:
        async with opened_ledger(means.deployment, means.key, state, url=flags.ledger_rpc) as ledger:
            now_s = max(await ledger.now_s(), int(time.time()))
            order = await draw_up(
                client,
                means.deployment,
                ledger.account,
                means.wish,
                file_id,
                endpoint,
                now_s + window_seconds(completion_window) + GRACE_S,
                lambda payment: batch_body(file_id, endpoint, completion_window, metadata, codecs, payment),
                session,
                client.base_url,
            )
            folder = flags.purses / order.agreement.job_id.hex()[:16]
            purse = await open_job(ledger, order, folder, session, means.passphrase)
    except LedgerError as error:
        raise UnreachableError(f"ledger: {error}") from error
    with purse.held():
        await Payer(purse, session, client).create_batch()
    return purse


def pay_in_background(flags: PaymentFlags, connection: Connection, batch_id: str, purse: Purse) -> int:
    """Start `deserve pay` as a process of its own, which goes on when this one ends; returns its process id."""
    arguments = ["pay", batch_id, "--purses", str(flags.purses), "--passphrase-file", str(flags.passphrase_file)]
    command = [sys.executable, "-m", "deserve_client.main", *arguments, *connection.arguments()]
    log = str(purse.folder / "pay.log")
    # Not by subprocess, which wants to outlive whom it starts.
    return os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
