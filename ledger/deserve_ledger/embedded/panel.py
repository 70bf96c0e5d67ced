"""Who decides a challenge: three nodes of three operators, drawn by stake from one unforeseeable number.

By rejection, try by try as `contracts/Panels.sol` does it: an auditor is picked evenly, and passes with the chance of
its stake over the greatest stake that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eth_hash.auto import keccak

from deserve_ledger.records import NodeRecord

__all__ = ["SEATS", "draw"]

SEATS = 3
_TRIES = 512
_WEIGHT_CAP = 16
"""In minimum stakes: more stake than that makes no likelier auditor."""


def draw(
    seed: bytes,
    challenge_id: int,
    auditors: Sequence[bytes],
    nodes: Mapping[bytes, NodeRecord],
    min_stake: int,
    excluded: frozenset[bytes],
) -> tuple[bytes, ...] | None:
    """Node ids of three operators, none of them `excluded`; None where too few pass in all tries."""
    if len(auditors) < SEATS:
        return None
    panel: list[bytes] = []
    operators = set(excluded)
    for attempt in range(_TRIES):
        word = keccak(seed + challenge_id.to_bytes(32, "big") + attempt.to_bytes(32, "big"))
        node_id = auditors[int.from_bytes(word[:16], "big") % len(auditors)]
        node = nodes[node_id]
        if int.from_bytes(word[16:], "big") % (min_stake * _WEIGHT_CAP) >= node.stake or node.operator in operators:
            continue
        panel.append(node_id)
        operators.add(node.operator)
        if len(panel) == SEATS:
            return tuple(panel)
    return None
