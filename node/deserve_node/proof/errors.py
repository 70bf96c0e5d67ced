"""Errors of proving work; the tree is drawn in `deserve_node.errors`."""

from __future__ import annotations

from deserve_node.errors import NodeError

__all__ = ["CommitmentMismatch", "ContradictionError", "EvidenceError"]


class CommitmentMismatch(NodeError):
    """What the neighbour `peer_id` commits to in chunk `chunk` is not what it sent."""

    def __init__(self, text: str, peer_id: str, chunk: int) -> None:
        super().__init__(text)
        self.peer_id = peer_id
        self.chunk = chunk


class ContradictionError(NodeError):
    """Something else has been signed for a work id before. Signing this would be proof of fraud."""


class EvidenceError(NodeError):
    """Evidence that is not there, is damaged, or is not what was committed to; the text says which."""
