"""Somebody else's journal over HTTP, held to what it has shown.

A call has taken effect when a signed head covers its entry and that head is on this party's disk: from then on the
owner cannot drop the entry without showing that it lied. What is read is the owner's word until it is checked; `check`
replays all entries, signatures and rules, and compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from deserve_ledger.embedded.entries import Entry, SignedCall, extend, journal_domain
from deserve_ledger.embedded.heads import HeadWatch, SignedHead
from deserve_ledger.embedded.journal_http import JournalHttp
from deserve_ledger.embedded.plain import from_plain, to_plain
from deserve_ledger.embedded.reads import READS
from deserve_ledger.embedded.server import MAX_ANSWER_ENTRIES, MAX_ANSWER_LINKS
from deserve_ledger.embedded.tip import Tip, first_tip, replay
from deserve_ledger.errors import InvalidField, RolledBack
from deserve_ledger.records import Event, Settled, Terms

__all__ = ["RemoteJournal", "open_remote"]

_MOST_LINKS = 1 << 20
"""Entries that are proven in one go: 32 MiB of links."""


class RemoteJournal:
    """Made by `open_remote`. `watch` keeps the newest head; `tip` is as far as `check` has replayed."""

    def __init__(self, http: JournalHttp, owner: bytes, terms: Terms, head_path: Path) -> None:
        self._http = http
        self._owner = owner
        self.tip = first_tip(owner, terms)
        self.watch = HeadWatch(head_path, owner, journal_domain(owner), self.tip.head.entry_hash)
        self._watching = asyncio.Lock()

    @property
    def owner(self) -> bytes:
        return self._owner

    @property
    def terms(self) -> Terms:
        return self.tip.state.terms

    async def send(self, signed: SignedCall) -> Settled:
        answer = await self._http.ask("POST", "/calls", json=to_plain(signed))
        entry: Entry = from_plain(Entry, answer["entry"])
        settled: Settled = from_plain(Settled, answer["settled"])
        if entry.signed != signed:
            raise RolledBack(f"the journal answers with another call than nonce {signed.nonce} of the sender")
        if await self._proven_hash(entry.number - 1, [entry.link]) != settled.reference:
            raise RolledBack(f"entry {entry.number} is not in the journal that its owner signs")
        return settled

    async def read(self, what: str, *arguments: Any) -> Any:
        answer = await self._http.ask("POST", "/read", json={"what": what, "arguments": to_plain(arguments)})
        return from_plain(READS[what].result, answer["value"])

    async def now_s(self) -> int:
        return cast(int, from_plain(int, (await self._http.ask("GET", "/now"))["now_s"]))

    async def events(self, after: int, limit: int) -> Sequence[Event]:
        answer = await self._http.ask("GET", "/events", params={"after": max(0, after), "limit": limit})
        return cast(list[Event], list(from_plain(tuple[Event, ...], answer["events"])))

    async def hash_at(self, number: int) -> bytes | None:
        """Proven to be in the journal whose newest head is kept."""
        if number < 1 or (await self._http.ask("GET", "/hash", params={"number": number}))["hash"] is None:
            return None
        return await self._proven_hash(number, [])

    async def refresh(self) -> SignedHead:
        """The newest head, kept from now on. Raises `RolledBack` where it does not go on from the one kept so far."""
        async with self._watching:
            return await self._refresh()

    async def _refresh(self) -> SignedHead:
        shown: SignedHead = from_plain(SignedHead, (await self._http.ask("GET", "/head"))["head"])
        self.watch.accept(shown, await self._links(self.watch.head.length, shown.head.length))
        return shown

    async def _proven_hash(self, number: int, links: list[bytes]) -> bytes:
        """The hash of the entry that `links` lead to from entry `number`, if a head that is kept covers it."""
        async with self._watching:
            if self.watch.head.length < number + len(links):
                await self._refresh()
            start = self.watch.genesis
            if number:
                start = from_plain(bytes, (await self._http.ask("GET", "/hash", params={"number": number}))["hash"])
            there = extend(start, links)
            onwards = await self._links(number + len(links), self.watch.head.length)
            if extend(there, onwards) != self.watch.head.entry_hash:
                raise RolledBack(f"entry {number + len(links)} is not in the journal that its owner signs")
            return there

    async def _links(self, after: int, until: int) -> list[bytes]:
        if until - after > _MOST_LINKS:
            raise InvalidField("links", f"{until - after} entries are more than can be proven at once")
        links: list[bytes] = []
        while after + len(links) < until:
            asked = {"after": after + len(links), "until": until}
            page = from_plain(tuple[bytes, ...], (await self._http.ask("GET", "/links", params=asked))["links"])
            if not 0 < len(page) <= MAX_ANSWER_LINKS:
                raise RolledBack(f"the journal has no entry {after + len(links) + 1} on the way to {until}")
            links += page
        return links

    async def check(self) -> Tip:
        """Replay what has been added since the last check and compare it with the head that is kept.

        Raises `RolledBack` or `BadSignature` for a journal that its owner did not keep by the rules. Ask the tip, by
        `reads.READS`, for what is then known and not only told.
        """
        kept = (await self.refresh()).head
        tip = self.tip
        while tip.head.length < kept.length:
            answer = await self._http.ask("GET", "/entries", params={"after": tip.head.length})
            page = cast(tuple[Entry, ...], from_plain(tuple[Entry, ...], answer["entries"]))
            if not 0 < len(page) <= MAX_ANSWER_ENTRIES:
                raise RolledBack(f"the journal does not show its entry {tip.head.length + 1}")
            for entry in page[: kept.length - tip.head.length]:
                tip = replay(tip, entry)
        if tip.head != kept:
            raise RolledBack(f"the entries up to {kept.length} are not those of the head that was signed")
        self.tip = tip
        return tip

    async def close(self) -> None:
        """Nothing: the HTTP session is its maker's."""


async def open_remote(http: JournalHttp, owner: bytes, head_path: Path) -> RemoteJournal:
    """The journal of `owner` (20 bytes); `head_path` is where its newest head is kept.

    Raises `RolledBack` where another owner's answers, or one with other terms than before, and `ChainUnreachable`.
    """
    genesis = await http.ask("GET", "/genesis")
    if from_plain(bytes, genesis.get("owner")) != owner:
        raise RolledBack(f"the journal belongs to {genesis.get('owner')!s:.40}, not to {owner.hex()}")
    journal = RemoteJournal(http, owner, from_plain(Terms, genesis.get("terms")), head_path)
    await journal.refresh()
    return journal
