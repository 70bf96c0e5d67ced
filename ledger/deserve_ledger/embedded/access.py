"""What an account's ledger needs of a journal, whether its owner is in this process or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from deserve_ledger.embedded.entries import SignedCall
from deserve_ledger.records import Event, Settled, Terms

__all__ = ["JournalAccess"]


class JournalAccess(Protocol):
    @property
    def owner(self) -> bytes:
        """20 bytes."""

    @property
    def terms(self) -> Terms: ...

    async def send(self, signed: SignedCall) -> Settled:
        """Have a call journaled, once, however often it is sent. Raises `Refused`, `ChainUnreachable`, `RolledBack`."""

    async def read(self, what: str, *arguments: Any) -> Any:
        """One of `reads.READS`."""

    async def now_s(self) -> int:
        """The journal's time: its owner's clock, never before its newest entry."""

    async def events(self, after: int, limit: int) -> Sequence[Event]: ...

    async def hash_at(self, number: int) -> bytes | None:
        """The hash of that entry; None before there is one."""

    async def close(self) -> None: ...
