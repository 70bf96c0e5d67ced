"""One job's purse on the payer's disk: what was agreed, the session key, and what was signed with it.

A folder of its owner's alone. What is signed is written and fsynced before it is signed, so that a payer that is killed
between the two signs the same again and never two things under one number; signing is deterministic.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from deserve_client.errors import ClientError, InputError
from deserve_client.paying.charges import Agreement, Signed
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import LedgerError
from deserve_ledger.keystore import STANDARD_SCRYPT_N, Key, create_keystore, open_keystore
from deserve_ledger.prices import Prices

__all__ = ["Order", "Purse", "all_purses", "purse_of"]

Record = TypeVar("Record")

_ORDER, _SIGNED, _KEY, _LOCK = "order.json", "signed.json", "session-key.json", "lock"


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that was decided before the job was opened, so that an interrupted submission can go on."""

    agreement: Agreement
    salt: bytes
    signer: bytes
    """Address of the session key."""
    deadline_s: int
    escrow: int
    """Base units that the ledger holds for the job."""
    batch: dict[str, Any]
    """What the batch is created with: the body of the request, its idempotency key, and the coordinator's base_url."""
    batch_id: str = ""
    """Empty until the coordinator has given it one."""
    ended: bool = False
    """Nothing further will be due."""


class Purse:
    """Opened by one process at a time: see `held`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path, order: Order, key: Key, passphrase: str, *, scrypt_n: int = STANDARD_SCRYPT_N) -> Purse:
        """On disk before anything of it is on the ledger. Raises `InputError` where there is one already."""
        purse = cls(folder)
        try:
            folder.mkdir(parents=True, mode=0o700)
            create_keystore(folder / _KEY, passphrase, key=key, scrypt_n=scrypt_n)
            purse.write_order(order)
        except (OSError, LedgerError) as error:
            raise InputError(f"{folder}: {error}") from error
        return purse

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises `InputError` where another process pays from it: two would sign two things under one number."""
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise InputError(f"{self.folder}: another process pays from it") from error
        finally:
            os.close(descriptor)

    def key(self, passphrase: str) -> Key:
        """The session key. Raises `InputError`."""
        try:
            return open_keystore(self.folder / _KEY, passphrase)
        except LedgerError as error:
            raise InputError(str(error)) from error

    def order(self) -> Order:
        """Raises `ClientError` where the file is damaged."""
        return self._read(_ORDER, _order_of)

    def write_order(self, order: Order) -> None:
        agreement = order.agreement
        _write(
            self.folder / _ORDER,
            {
                "job_id": agreement.job_id.hex(),
                "chain_id": agreement.domain.chain_id,
                "contract": agreement.domain.contract.hex(),
                "coordinator": agreement.coordinator.hex(),
                "budget": str(agreement.budget),
                "price_prefill": str(agreement.prices.prefill),
                "price_decode": str(agreement.prices.decode),
                "layers": agreement.layers,
                "salt": order.salt.hex(),
                "signer": order.signer.hex(),
                "deadline_s": order.deadline_s,
                "escrow": str(order.escrow),
                "batch": order.batch,
                "batch_id": order.batch_id,
                "ended": order.ended,
            },
        )

    def change(self, **changes: Any) -> Order:
        order = replace(self.order(), **changes)
        self.write_order(order)
        return order

    def signed(self) -> Signed:
        if not (self.folder / _SIGNED).exists():
            return Signed()
        return self._read(
            _SIGNED, lambda c: Signed(int(c["cumulative"]), int(c["seq"]), bytes.fromhex(c["results_root"]))
        )

    def write_signed(self, signed: Signed) -> None:
        """Before it is signed. Raises `ClientError` for one that takes back what is there."""
        before = self.signed()
        if signed.seq <= before.seq or signed.cumulative < before.cumulative:
            raise ClientError(f"{self.folder}: voucher {signed.seq} would follow {before.seq}; nothing is signed")
        root = signed.results_root.hex()
        _write(self.folder / _SIGNED, {"cumulative": str(signed.cumulative), "seq": signed.seq, "results_root": root})

    def _read(self, name: str, read: Callable[[Any], Record]) -> Record:
        path = self.folder / name
        try:
            return read(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, LedgerError) as error:
            raise ClientError(f"{path}: {error!r}") from error


def _order_of(content: dict[str, Any]) -> Order:
    domain = Domain(content["chain_id"], bytes.fromhex(content["contract"]))
    prices = Prices(int(content["price_prefill"]), int(content["price_decode"]))
    job_id, coordinator = bytes.fromhex(content["job_id"]), bytes.fromhex(content["coordinator"])
    agreement = Agreement(job_id, domain, coordinator, int(content["budget"]), prices, content["layers"])
    return Order(
        agreement,
        bytes.fromhex(content["salt"]),
        bytes.fromhex(content["signer"]),
        content["deadline_s"],
        int(content["escrow"]),
        content["batch"],
        content["batch_id"],
        content["ended"],
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, and on disk when it returns."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def all_purses(data: Path) -> list[Purse]:
    """Of every job that was opened from here."""
    return [Purse(path.parent) for path in sorted(data.glob(f"*/{_ORDER}"))]


def purse_of(data: Path, batch_id: str) -> Purse:
    """Raises `InputError` where none pays for that batch."""
    for purse in all_purses(data):
        if purse.order().batch_id == batch_id:
            return purse
    raise InputError(f"{batch_id}: no job in {data} pays for it")
