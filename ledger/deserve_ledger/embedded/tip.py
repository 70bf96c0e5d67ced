"""Where a journal stands after its newest entry, and the only way on from there.

The owner appends by `follow`, and whoever checks the owner replays by it: an entry out of order, back in time,
repeated, expired or against the rules does not follow, for either of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rpds import HashTrieMap

from deserve_ledger.embedded import machine
from deserve_ledger.embedded.calls import JournalCall
from deserve_ledger.embedded.entries import Entry, extend, genesis_hash, journal_domain
from deserve_ledger.embedded.heads import JournalHead
from deserve_ledger.embedded.state import Moment, State
from deserve_ledger.errors import Refused, RolledBack
from deserve_ledger.records import Event, Terms

__all__ = ["EVENTS_AN_ENTRY", "Tip", "first_tip", "follow", "replay"]

EVENTS_AN_ENTRY = 256
"""An event's position is its entry's number times this, plus its place in the entry."""
_LONGEST_VALID_S = 3600
"""How far ahead a call's expiry may be, so that nobody can keep a refused call for better times."""


@dataclass(frozen=True, slots=True)
class Tip:
    head: JournalHead
    time_s: int
    nonces: HashTrieMap[bytes, int]
    """The next one of each account that has an entry."""
    state: State


def first_tip(owner: bytes, terms: Terms) -> Tip:
    """Before the first entry. Raises `InvalidField` for terms that cannot be."""
    domain = journal_domain(owner)
    head = JournalHead(0, genesis_hash(owner, domain, terms))
    return Tip(head, 0, HashTrieMap(), machine.genesis(domain, terms, owner))


def follow(tip: Tip, entry: Entry, call: JournalCall) -> tuple[Tip, tuple[Event, ...]]:
    """The tip after `entry`, whose call is `call`, and what happened.

    Raises `Refused` with the contract's reason, "BadNonce" or "CallExpired", and `RolledBack` for an entry that is not
    the next one. Who signed the call is the caller's to check (`SignedCall.check`).
    """
    signed = entry.signed
    if entry.number != tip.head.length + 1 or entry.time_s < tip.time_s:
        raise RolledBack(f"entry {entry.number} does not follow entry {tip.head.length}")
    if signed.nonce != tip.nonces.get(signed.sender, 0):
        raise Refused("BadNonce")
    if not entry.time_s < signed.expires_s <= entry.time_s + _LONGEST_VALID_S:
        raise Refused("CallExpired")
    # A journal counts a block a second: its time goes on where nobody writes.
    when = Moment(entry.time_s, entry.time_s, entry.entropy)
    state, events = machine.apply(tip.state, signed.sender, call, when)
    head = JournalHead(entry.number, extend(tip.head.entry_hash, [entry.link]))
    first = entry.number * EVENTS_AN_ENTRY
    placed = tuple(replace(event, position=first + place) for place, event in enumerate(events))
    return Tip(head, entry.time_s, tip.nonces.insert(signed.sender, signed.nonce + 1), state), placed


def replay(tip: Tip, entry: Entry) -> Tip:
    """The tip after an entry that somebody else's journal shows. Raises `RolledBack` or `BadSignature` for a lie."""
    try:
        return follow(tip, entry, entry.signed.check(tip.state.domain))[0]
    except Refused as impossible:
        raise RolledBack(f"entry {entry.number} cannot have been taken: {impossible.reason}") from impossible
