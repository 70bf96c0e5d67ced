"""Opens a job on the ledger for a batch: budget into escrow, a fresh session key that may sign up to it.

The payer's own key is used for this and never again: what runs while the payer sleeps holds the session key only, and
the most that can be lost with it is the job's budget, to the one coordinator that the job names.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from deserve_client.errors import ClientError, InputError, UnreachableError
from deserve_client.paying.charges import Agreement
from deserve_client.paying.purse import Order, Purse
from deserve_ledger.calls import Deposit, OpenJob, Refund
from deserve_ledger.deployment import Deployment
from deserve_ledger.errors import ChainUnreachable, LedgerError, Refused, Unsettled
from deserve_ledger.identifiers import job_id
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import STANDARD_SCRYPT_N, Key
from deserve_ledger.prices import Prices

__all__ = ["GRACE_S", "Wish", "draw_up", "open_job", "refund"]

GRACE_S = 2 * 3600
"""How much longer than its batch's window a job lasts: coordinators want time to collect."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the payer is willing to pay. Base units; prices per million layer-tokens, everything included."""

    budget: int
    prices: Prices | None
    """None: as quoted."""
    coordinator: bytes | None = None
    """The account that the payer knows; None: whichever the coordinator names."""


class Quotes(Protocol):
    async def quote(self, input_file_id: str, endpoint: str, max_price: Any) -> Json: ...
    async def settlement(self) -> Json: ...


async def draw_up(
    client: Quotes,
    deployment: Deployment,
    payer: bytes,
    wish: Wish,
    file_id: str,
    endpoint: str,
    deadline_s: int,
    body_of: Callable[[Json], Json],
    session: Key,
    base_url: str,
) -> Order:
    """A quote, and what follows from it. `body_of` makes the batch's request from its payment part.

    Raises `InputError` where the budget pays for nothing, or the coordinator's account is not the one that was meant.
    """
    asked = None if wish.prices is None else {"prefill": str(wish.prices.prefill), "decode": str(wish.prices.decode)}
    quote = await client.quote(file_id, endpoint, asked)
    settlement = await client.settlement()
    try:
        at_most, layers = int(quote["at_most"]), int(quote["layers"])
        prices = wish.prices or Prices(int(quote["max_price"]["prefill"]), int(quote["max_price"]["decode"]))
        coordinator = bytes.fromhex(str(settlement["coordinator"]).removeprefix("0x"))
    except (KeyError, TypeError, ValueError, LedgerError) as error:
        raise ClientError(f"the coordinator's quote cannot be read: {error!r}") from error
    if wish.coordinator is not None and coordinator != wish.coordinator:
        raise InputError(f"--account: this one's account is 0x{coordinator.hex()}, not 0x{wish.coordinator.hex()}")
    if not wish.budget:
        raise InputError("--budget: nothing would be paid for")
    # What the batch cannot cost need not be locked.
    escrow = min(wish.budget, at_most)
    salt = secrets.token_bytes(32)
    job = job_id(payer, salt)
    payment: Json = {
        "job_id": "0x" + job.hex(),
        "max_price": {"prefill": str(prices.prefill), "decode": str(prices.decode)},
    }
    if escrow < at_most:
        payment["max_cost"] = str(escrow)
    return Order(
        Agreement(job, deployment.domain, coordinator, escrow, prices, layers),
        salt,
        session.address,
        deadline_s,
        escrow,
        {"body": body_of(payment), "idempotency_key": uuid4().hex, "base_url": base_url},
    )


async def open_job(
    ledger: Ledger, order: Order, folder: Path, session: Key, passphrase: str, *, scrypt_n: int = STANDARD_SCRYPT_N
) -> Purse:
    """The purse first, then the job: whatever breaks off, no money is where nobody has the key for it.

    Money that is missing in the payer's balance is deposited. Raises `InputError` where the ledger refuses,
    `UnreachableError` where its fate is unknown.
    """
    purse = Purse.make(folder, order, session, passphrase, scrypt_n=scrypt_n)
    agreement = order.agreement
    try:
        if (missing := order.escrow - await ledger.balance(ledger.account)) > 0:
            await ledger.submit(Deposit(missing))
        await ledger.submit(OpenJob(order.salt, agreement.coordinator, order.signer, order.escrow, order.deadline_s))
    except Refused as refused:
        raise InputError(f"the ledger refuses to open the job: {refused.reason}") from refused
    except (ChainUnreachable, Unsettled) as error:
        raise UnreachableError(f"{error}; the job is in {folder}") from error
    return purse


async def refund(ledger: Ledger, job: bytes) -> int:
    """What is left of a job's escrow, back in its payer's balance; returns base units. For an overdue job.

    Raises `ClientError` with the reason where the ledger refuses, such as "TooEarly".
    """
    record = await ledger.job(job)
    try:
        await ledger.submit(Refund(job))
    except Refused as refused:
        raise ClientError(f"no refund: {refused.reason}") from refused
    return record.budget - record.drawn
