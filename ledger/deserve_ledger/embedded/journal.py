"""The owner's journal: every call that took effect, in one SQLite file, and the state that they make together.

An entry is on disk (WAL, synchronous=FULL) before anybody hears of it, so that a kill at any moment loses nothing that
was acknowledged. The state is replayed from the entries when the journal is opened, from the newest snapshot on where
one fits the chain; a snapshot only saves time. A refused call leaves no entry. One process has the file at a time.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from eth_keys.datatypes import PrivateKey

from deserve_ledger.embedded.entries import Entry, SignedCall, extend
from deserve_ledger.embedded.heads import HeadWatch, JournalHead, SignedHead, sign_head
from deserve_ledger.embedded.plain import from_plain, to_plain
from deserve_ledger.embedded.state import State
from deserve_ledger.embedded.tables import JournalTables
from deserve_ledger.embedded.tip import EVENTS_AN_ENTRY, Tip, first_tip, follow
from deserve_ledger.errors import Refused, RolledBack
from deserve_ledger.records import Event, Settled, Terms

__all__ = ["Journal"]

_SNAPSHOT_EVERY = 10_000


def _fresh_entropy() -> bytes:
    return os.urandom(32)


class Journal:
    """Opens or creates the journal at `path`; `key` is the owner's 32-byte private key.

    Raises `RolledBack` where the file contradicts itself or a head that its owner has signed, `InvalidField` where it
    was begun with other terms, `JournalUnusable` where another process has it. Not to be used from two threads at once;
    `tip` alone may be read from any, because it is replaced as a whole.
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        terms: Terms,
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[], bytes] = _fresh_entropy,
        snapshot_every: int = _SNAPSHOT_EVERY,
    ) -> None:
        self._key = key
        self._clock = clock
        self._entropy = entropy
        self._snapshot_every = snapshot_every
        self.owner = PrivateKey(key).public_key.to_canonical_address()
        self.tip = first_tip(self.owner, terms)
        self._tables = JournalTables(path)
        try:
            genesis = self.tip.head.entry_hash
            self._tables.bind(genesis)
            self.tip = self._replay()
            # The owner watches itself: a file from an old backup must not make it sign a fork.
            self._watch = HeadWatch(path.with_name(path.name + ".head"), self.owner, self.state.domain, genesis)
            self.signed_head()
        except BaseException:
            self._tables.close()
            raise

    @property
    def state(self) -> State:
        return self.tip.state

    def _replay(self) -> Tip:
        snapshot = self._tables.newest_snapshot()
        tip, head = self.tip, self.tip.head
        for entry, kept_hash in self._tables.walk():
            head = JournalHead(head.length + 1, extend(head.entry_hash, [entry.link]))
            if (entry.number, kept_hash) != (head.length, head.entry_hash):
                raise RolledBack(f"entry {entry.number} of the journal is not the one that was written")
            if snapshot is None or entry.number > snapshot[0]:
                tip, _ = follow(tip, entry, entry.signed.decoded())
            elif entry.number == snapshot[0]:
                tip = from_plain(Tip, json.loads(zlib.decompress(snapshot[1])))
        if tip.head != head:
            raise RolledBack(f"the journal's snapshot of entry {tip.head.length} does not belong to it")
        return tip

    def now_s(self) -> int:
        """Unix seconds, never before the newest entry's."""
        return max(int(self._clock()), self.tip.time_s)

    def append(self, signed: SignedCall) -> tuple[Entry, Settled]:
        """Have a call take effect, durably. One that was taken before, sent again, is answered as it was then.

        Raises `BadSignature`, `InvalidField`, and `Refused`: as `tip.follow` does, or with "UnknownAccount" for an
        account that never had money here, and so must not make the journal grow.
        """
        call = signed.check(self.state.domain)
        earlier = self._tables.entry_of(signed.sender, signed.nonce)
        if earlier is not None and earlier.signed.call == signed.call:
            return earlier, self._settled(earlier)
        known = (self.state.tokens, self.state.balances)
        if signed.sender != self.owner and not any(signed.sender in held for held in known):
            raise Refused("UnknownAccount")
        entry = Entry(self.tip.head.length + 1, self.now_s(), self._entropy(), signed)
        tip, events = follow(self.tip, entry, call)
        self._tables.append(entry, tip.head.entry_hash, events)
        self.tip = tip
        if entry.number % self._snapshot_every == 0:
            self._tables.keep_snapshot(entry.number, zlib.compress(json.dumps(to_plain(tip)).encode(), 1))
        return entry, Settled(tip.head.entry_hash, events)

    def _settled(self, entry: Entry) -> Settled:
        first = entry.number * EVENTS_AN_ENTRY
        events = self._tables.events(first - 1, EVENTS_AN_ENTRY)
        own = tuple(event for event in events if event.position < first + EVENTS_AN_ENTRY)
        return Settled(self._tables.hash_of(entry.number), own)

    def signed_head(self) -> SignedHead:
        """The newest head, signed; the owner remembers durably that it has signed it. Raises `RolledBack`."""
        newest, head = self._watch.newest, self.tip.head
        if newest is None or newest.head != head:
            newest = sign_head(self._key, self.state.domain, head)
            self._watch.accept(newest, self.links(self._watch.head.length, head.length))
        return newest

    def links(self, after: int, until: int) -> list[bytes]:
        """Those of the entries with numbers above `after` up to `until`."""
        return [entry.link for entry in self.entries(after, max(0, until - after))]

    def entries(self, after: int, limit: int) -> list[Entry]:
        """At most `limit`, in order, with numbers above `after`."""
        return self._tables.entries(after, limit)

    def events(self, after: int, limit: int) -> Sequence[Event]:
        """At most `limit`, in order, with positions above `after`."""
        return self._tables.events(after, limit)

    def hash_of(self, number: int) -> bytes:
        """Entry `number`'s, 32 bytes. Raises `InvalidField` where there is none."""
        return self._tables.hash_of(number)

    def close(self) -> None:
        self._tables.close()
