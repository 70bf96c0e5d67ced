"""Merkle trees as OpenZeppelin's MerkleProof verifies them: sorted pairs, leaves hashed twice.

Hashing a leaf's content twice keeps an inner node from passing for a leaf. Proofs need no positions, because each pair
is hashed in order of size. Trees that no contract looks into may be built with a faster hash than Keccak (`join`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eth_hash.auto import keccak

from deserve_ledger.eip712 import encode_words

__all__ = ["EMPTY_ROOT", "Join", "MerkleTree", "claim_leaf", "climb", "leaf_hash", "verify"]

EMPTY_ROOT = bytes(32)
"""The root of no leaves: no proof leads to it."""

_CLAIM = (("coordinator", "address"), ("epoch", "uint64"), ("nodeId", "bytes32"), ("cumulative", "uint128"))


def leaf_hash(content: bytes) -> bytes:
    """keccak256(keccak256(content))."""
    return keccak(keccak(content))


def claim_leaf(coordinator: bytes, epoch: int, node_id: bytes, cumulative: int) -> bytes:
    """The leaf of one node's credit in a coordinator's epoch root. Raises `InvalidField`."""
    return leaf_hash(encode_words(_CLAIM, (coordinator, epoch, node_id, cumulative)))


Join = Callable[[bytes, bytes], bytes]
"""The parent of two nodes, whichever comes first."""


def _join(one: bytes, other: bytes) -> bytes:
    return keccak(min(one, other) + max(one, other))


class MerkleTree:
    """Over 32-byte leaf hashes, in the order given; a node without a sibling moves up as it is."""

    def __init__(self, leaves: Sequence[bytes], join: Join = _join) -> None:
        self._levels = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [join(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            self._levels.append(pairs + below[len(pairs) * 2 :])

    @property
    def root(self) -> bytes:
        """32 bytes; `EMPTY_ROOT` without leaves."""
        return self._levels[-1][0] if self._levels[-1] else EMPTY_ROOT

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Siblings from leaf `index` up to the root. Raises `IndexError`."""
        if not 0 <= index < len(self._levels[0]):
            raise IndexError(f"leaf {index} of {len(self._levels[0])}")
        siblings = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                siblings.append(level[sibling])
            index //= 2
        return tuple(siblings)


def climb(leaf: bytes, proof: Sequence[bytes], join: Join = _join) -> bytes:
    """The root to which `proof` leads from `leaf`."""
    for sibling in proof:
        leaf = join(leaf, sibling)
    return leaf


def verify(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` leads from `leaf` to `root`."""
    return climb(leaf, proof) == root
