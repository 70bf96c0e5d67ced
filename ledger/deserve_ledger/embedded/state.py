"""Everything that an embedded ledger knows, as one immutable value.

Maps are persistent (`rpds`): a changed state shares all that did not change with the one before, so that a refused
call leaves nothing behind and an old state can be kept for nothing. Absent entries read as the chain's zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rpds import HashTrieMap

from deserve_ledger.eip712 import Domain
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    JobRecord,
    NodeRecord,
    Reservation,
    Terms,
    Totals,
)

__all__ = ["Arbitration", "Moment", "State"]


@dataclass(frozen=True, slots=True)
class Moment:
    """When a call takes effect: Unix seconds, the number of the block, and 32 bytes that nobody knew before.

    For a call that draws a panel on a chain, `entropy` is the hash of the block that seeds it, zero where the chain has
    forgotten it. A journal counts a block a second.
    """

    now_s: int
    block: int
    entropy: bytes


@dataclass(frozen=True, slots=True)
class Arbitration:
    """An open or decided challenge: what everybody may read, and what only drawing and deciding it need."""

    record: ChallengeRecord
    draw_block: int = 0


def _map() -> Any:
    return HashTrieMap()


@dataclass(frozen=True, slots=True)
class State:
    domain: Domain
    terms: Terms
    issuer: bytes
    """The journal's owner: whose word the tokens are."""
    supply: int = 0
    """All tokens there are, inside and outside."""
    tokens: HashTrieMap[bytes, int] = field(default_factory=_map)
    """Of an account, outside the ledger's keeping."""
    balances: HashTrieMap[bytes, int] = field(default_factory=_map)
    nodes: HashTrieMap[bytes, NodeRecord] = field(default_factory=_map)
    auditors: tuple[bytes, ...] = ()
    """Ids of the nodes that a panel is drawn from, in the order in which the contract keeps them."""
    coordinators: HashTrieMap[bytes, CoordinatorRecord] = field(default_factory=_map)
    jobs: HashTrieMap[bytes, JobRecord] = field(default_factory=_map)
    reservations: HashTrieMap[tuple[bytes, bytes], Reservation] = field(default_factory=_map)
    """By (coordinator, node id)."""
    roots: HashTrieMap[tuple[bytes, int], bytes] = field(default_factory=_map)
    """By (coordinator, epoch)."""
    arbitrations: HashTrieMap[int, Arbitration] = field(default_factory=_map)
    """By challenge id, from 1."""
    challenged: HashTrieMap[tuple[bytes, bytes], int] = field(default_factory=_map)
    """The open challenge of a (node id, work id)."""
    commitments: HashTrieMap[tuple[int, bytes], bytes] = field(default_factory=_map)
    """To votes that are not revealed yet, by (challenge id, node id)."""
    totals: Totals = field(default_factory=lambda: Totals(0, 0, 0, 0, 0, 0))
