"""What holds a journal's owner to its word: signed heads, and counterparties that keep the newest one.

A head says "my journal has this many entries and the last one's hash is this". Its owner may only ever show longer
journals that go on from it. Whoever kept a head notices a truncated tail, a rewritten entry and a fork; together, two
heads that exclude each other prove to everybody else that the owner lied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deserve_ledger.eip712 import Domain, recover, sign
from deserve_ledger.embedded.durable_file import write_durably
from deserve_ledger.embedded.entries import extend
from deserve_ledger.errors import BadSignature, InvalidField, RolledBack

__all__ = ["HeadWatch", "JournalHead", "SignedHead", "sign_head"]


@dataclass(frozen=True, slots=True)
class JournalHead:
    NAME: ClassVar[str] = "JournalHead"
    TYPES: ClassVar[tuple[tuple[str, str], ...]] = (("length", "uint64"), ("entryHash", "bytes32"))

    length: int
    """Entries after the genesis."""
    entry_hash: bytes


@dataclass(frozen=True, slots=True)
class SignedHead:
    head: JournalHead
    signature: bytes

    def check(self, domain: Domain, owner: bytes) -> JournalHead:
        """The head, if `owner` signed it. Raises `BadSignature`."""
        if recover(domain, self.head, self.signature) != owner:
            raise BadSignature(f"the head is not signed by the journal's owner {owner.hex()}")
        return self.head


def sign_head(key: bytes, domain: Domain, head: JournalHead) -> SignedHead:
    return SignedHead(head, sign(key, domain, head))


class HeadWatch:
    """The newest head that this party has seen of the journal of `owner`, durable in the file `path`.

    Begins with the genesis, whose hash fixes domain and terms. Raises `RolledBack` where the file watches another one.
    """

    def __init__(self, path: Path, owner: bytes, domain: Domain, genesis: bytes) -> None:
        self._path = path
        self._owner = owner
        self._domain = domain
        self.genesis = genesis
        self.head = JournalHead(0, genesis)
        self.newest: SignedHead | None = None
        """None before the first head; what to show to others."""
        if path.exists():
            self._load(json.loads(path.read_text()))

    def _load(self, kept: dict[str, str | int]) -> None:
        if kept["genesis"] != self.genesis.hex():
            raise RolledBack(f"{self._path} watches a journal with another owner or other terms")
        head = JournalHead(int(kept["length"]), bytes.fromhex(str(kept["entry_hash"])))
        self.newest = SignedHead(head, bytes.fromhex(str(kept["signature"])))
        self.head = self.newest.check(self._domain, self._owner)

    def accept(self, shown: SignedHead, links: Sequence[bytes]) -> None:
        """Take `shown` as the newest head; `links` are those of the entries after the head kept so far.

        Raises `BadSignature`, and `RolledBack` unless the journal only grew. Returns once it is on disk.
        """
        head = shown.check(self._domain, self._owner)
        if head.length < self.head.length:
            raise RolledBack(f"the journal had {self.head.length} entries and is shown with {head.length}")
        if len(links) != head.length - self.head.length:
            raise InvalidField("links", f"{len(links)} do not lead from entry {self.head.length} to {head.length}")
        if extend(self.head.entry_hash, links) != head.entry_hash:
            raise RolledBack(f"entry {head.length} does not go on from entry {self.head.length} as shown before")
        if head == self.head and self.newest is not None:
            return
        kept = {
            "genesis": self.genesis.hex(),
            "length": head.length,
            "entry_hash": head.entry_hash.hex(),
            "signature": shown.signature.hex(),
        }
        write_durably(self._path, json.dumps(kept).encode())
        self.head, self.newest = head, shown
