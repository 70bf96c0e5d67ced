"""What the rest of the project may rely on, whether a chain or a journal is behind it.

A ledger is seen through the eyes of one account: its calls are that account's. A submitted call has taken effect for
good when `submit` returns; one that was interrupted is asked for again and takes effect once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deserve_ledger.calls import Call
from deserve_ledger.eip712 import Domain
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    Event,
    JobRecord,
    NodeRecord,
    Reservation,
    Settled,
    Terms,
    Totals,
)

__all__ = ["Ledger"]


class Ledger(Protocol):
    @property
    def account(self) -> bytes:
        """The 20-byte address whose calls these are."""

    @property
    def domain(self) -> Domain:
        """What signatures for this ledger are bound to."""

    @property
    def terms(self) -> Terms: ...

    async def submit(self, call: Call) -> Settled:
        """Make a call. Raises `Refused` with the contract's error name, `ChainUnreachable`, or `Unsettled`."""

    async def balance(self, account: bytes) -> int: ...
    async def node(self, node_id: bytes) -> NodeRecord: ...
    async def coordinator(self, account: bytes) -> CoordinatorRecord: ...
    async def job(self, job_id: bytes) -> JobRecord: ...
    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation: ...
    async def root(self, coordinator: bytes, epoch: int) -> bytes: ...
    async def challenge(self, challenge_id: int) -> ChallengeRecord: ...
    async def totals(self) -> Totals: ...

    async def events(self, after: int, limit: int = 1000) -> Sequence[Event]:
        """Those with a position above `after`, in order; only such as can no longer be undone."""

    async def now_s(self) -> int:
        """The ledger's own time: that of its newest block or entry, or later."""

    async def beacon(self, position: int) -> bytes | None:
        """32 bytes that nobody knew before `position` was settled; None while it is not old enough to be relied on."""

    async def close(self) -> None: ...
