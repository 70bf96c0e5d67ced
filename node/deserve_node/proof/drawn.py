"""Whether the tokens that a tail commits to are those that it sent to the head. Pure.

The tail has no next stage that would countersign, so the head checks: otherwise a tail could be audited for tokens that
nobody got.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deserve_ledger.commitments import hash_pair
from deserve_ledger.identifiers import CHUNK_STEPS
from deserve_ledger.merkle import MerkleTree
from deserve_network.ring_messages import ChunkClosed, RowLabel, SampledToken
from deserve_node.proof.commitment import Booking, drawn_stretch, leaf_of
from deserve_node.proof.committer import StagePosition
from deserve_node.proof.errors import CommitmentMismatch

__all__ = ["DrawnTokens"]


class DrawnTokens:
    """Of one ring's epoch; `tail` is the peer that draws."""

    def __init__(self, position: StagePosition, tail: str) -> None:
        self._position = position
        self._tail = tail
        self._labels: dict[int, RowLabel] = {}
        self._gone: list[tuple[int, int]] = []
        """(chunk, sequence) of those that were released in that chunk: what was under way then still comes back."""
        self._drawn: dict[int, dict[int, list[SampledToken]]] = {}
        """By chunk and sequence, until the tail closes the chunk."""

    @property
    def settled(self) -> bool:
        """Whether the tail has committed to all that came."""
        return not self._drawn

    def rows(self, step: int, labels: Iterable[RowLabel], released: Iterable[int]) -> None:
        """Rows that begin with a step, and sequences that have left before it."""
        self._labels.update((label.sequence, label) for label in labels)
        self._gone.extend((step // CHUNK_STEPS, sequence) for sequence in released if sequence in self._labels)

    def came(self, step: int, drawn: Iterable[SampledToken]) -> None:
        """The tail's tokens of a step."""
        mine = [token for token in drawn if token.sequence in self._labels]
        if mine:
            of_chunk = self._drawn.setdefault(step // CHUNK_STEPS, {})
            for token in mine:
                of_chunk.setdefault(token.sequence, []).append(token)

    def check(self, message: ChunkClosed) -> None:
        """Raises `CommitmentMismatch` where the tail does not commit to what came."""
        rows: dict[Booking, list[tuple[RowLabel, Sequence[SampledToken]]]] = {}
        for sequence, tokens in self._drawn.pop(message.chunk, {}).items():
            label = self._labels[sequence]
            rows.setdefault(Booking(label.job_id, label.lease, label.attempt), []).append((label, tokens))
        said = {Booking(roots.job_id, roots.lease, roots.attempt): roots.wire_root for roots in message.booked}
        for booking in rows.keys() | said.keys():
            leaves = [
                leaf_of(label, drawn_stretch(tokens[0].position, [token.token for token in tokens]))
                for label, tokens in sorted(rows.get(booking, ()), key=lambda row: row[0].row)
            ]
            if MerkleTree(leaves, hash_pair).root != said.get(booking):
                where = f"{self._position.ring}/{self._position.epoch}"
                reason = f"chunk {message.chunk} of {where}: the tail {self._tail} commits to other tokens than it sent"
                raise CommitmentMismatch(reason, self._tail, message.chunk)
        for chunk, sequence in self._gone:
            if chunk <= message.chunk:
                self._labels.pop(sequence, None)
        self._gone = [gone for gone in self._gone if gone[0] > message.chunk]
