"""A journal that this process owns, for asyncio: one thread writes and reads the file, everybody reads the tip."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from deserve_ledger.embedded.entries import Entry, SignedCall
from deserve_ledger.embedded.heads import SignedHead
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.embedded.reads import READS
from deserve_ledger.records import Event, Settled, Terms

__all__ = ["OwnedJournal"]

T = TypeVar("T")


class OwnedJournal:
    """Takes over `journal`, which nobody else may call from here on. Shared by the accounts of this process.

    A call that is being journaled is journaled even where whoever waits for it is cancelled.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal")

    @property
    def owner(self) -> bytes:
        return self._journal.owner

    @property
    def terms(self) -> Terms:
        return self._journal.state.terms

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def send(self, signed: SignedCall) -> Settled:
        return (await self.append(signed))[1]

    async def append(self, signed: SignedCall) -> tuple[Entry, Settled]:
        """See `Journal.append`."""
        return await self._in_thread(self._journal.append, signed)

    async def read(self, what: str, *arguments: Any) -> Any:
        return READS[what].answer(self._journal.tip, *arguments)

    async def now_s(self) -> int:
        return self._journal.now_s()

    async def events(self, after: int, limit: int) -> Sequence[Event]:
        return await self._in_thread(self._journal.events, after, limit)

    async def hash_at(self, number: int) -> bytes | None:
        if not 0 < number <= self._journal.tip.head.length:
            return None
        return await self._in_thread(self._journal.hash_of, number)

    async def signed_head(self) -> SignedHead:
        return await self._in_thread(self._journal.signed_head)

    async def links(self, after: int, until: int) -> list[bytes]:
        return await self._in_thread(self._journal.links, after, until)

    async def entries(self, after: int, limit: int) -> list[Entry]:
        return await self._in_thread(self._journal.entries, after, limit)

    async def close(self) -> None:
        """Nothing: the process that opened the journal shuts it down once all its accounts are done."""

    def shut_down(self) -> None:
        """Finish what is being written and close the file."""
        self._thread.shutdown()
        self._journal.close()
