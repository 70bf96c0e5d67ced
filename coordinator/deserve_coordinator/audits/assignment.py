"""Who replays an audit: nodes of other operators that nobody could pick beforehand.

Pure. An auditor never shares an operator with the audited node or with another auditor of the same case; it is taken
from another ring and, for a confirmation, from another class of hardware where that can be had.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eth_hash.auto import keccak

__all__ = ["Candidate", "choose_auditors"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that is connected and may audit. Operators are accounts, 20 bytes; `node_id` has 32."""

    peer_id: str
    node_id: bytes
    operator: bytes
    hardware: str
    """Equal where the same floating-point results are to be expected."""
    ring: str = ""
    """The ring it serves in; empty where it is spare."""
    memory_bytes: int = 0
    trusted: bool = False
    """Of the trusted pool."""
    tasks: int = 0
    """That it was given and has not answered."""


def choose_auditors(
    candidates: Sequence[Candidate],
    *,
    audit: bytes,
    beacon: bytes,
    count: int,
    not_by: Collection[bytes],
    not_on: Collection[str] = (),
    not_in_ring: str = "",
    needs_bytes: int = 0,
    trusted_only: bool = False,
) -> tuple[Candidate, ...]:
    """Up to `count` auditors for the case `audit`, the best first; fewer where no more are fit.

    `not_by`: operators that are no choice at all. `not_on` (hardware) and `not_in_ring` are avoided where possible, and
    so is hardware of those chosen before. Among equals the hash over the draw's beacon decides.
    """
    taken_by = set(not_by)
    taken_on = set(not_on)
    left = [
        candidate
        for candidate in candidates
        if candidate.memory_bytes >= needs_bytes and (candidate.trusted or not trusted_only)
    ]
    chosen: list[Candidate] = []
    while len(chosen) < count:
        left = [candidate for candidate in left if candidate.operator not in taken_by]
        if not left:
            break
        best = min(
            left,
            key=lambda one: (
                bool(not_in_ring) and one.ring == not_in_ring,
                one.hardware in taken_on,
                one.tasks,
                keccak(beacon + audit + one.node_id),
            ),
        )
        chosen.append(best)
        taken_by.add(best.operator)
        taken_on.add(best.hardware)
    return tuple(chosen)
