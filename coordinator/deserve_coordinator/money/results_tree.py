"""The Merkle root of a list that only grows, kept in logarithmic space: what a voucher says it pays for.

The root is that of `deserve_ledger.merkle.MerkleTree` over the same leaves. All that is needed to go on are the roots
of the full subtrees that the list's length is made of, the largest first.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak

from deserve_ledger.merkle import EMPTY_ROOT, leaf_hash

__all__ = ["GrowingTree", "result_leaf"]


def result_leaf(custom_id: str, body: bytes) -> bytes:
    """The leaf of one delivered row: of its custom_id and of its body, byte for byte as in the output file."""
    return leaf_hash(keccak(custom_id.encode()) + keccak(body))


def _join(one: bytes, other: bytes) -> bytes:
    return keccak(min(one, other) + max(one, other))


@dataclass(frozen=True, slots=True)
class GrowingTree:
    """`peaks`: one 32-byte root for each binary digit 1 of `count`, the most significant first."""

    count: int = 0
    peaks: tuple[bytes, ...] = ()

    @classmethod
    def from_bytes(cls, count: int, peaks: bytes) -> GrowingTree:
        return cls(count, tuple(peaks[i : i + 32] for i in range(0, len(peaks), 32)))

    def to_bytes(self) -> bytes:
        return b"".join(self.peaks)

    def with_leaf(self, leaf: bytes) -> GrowingTree:
        peaks, full = list(self.peaks), self.count
        while full & 1:
            leaf = _join(peaks.pop(), leaf)
            full >>= 1
        return GrowingTree(self.count + 1, (*peaks, leaf))

    @property
    def root(self) -> bytes:
        """32 bytes; `EMPTY_ROOT` without leaves."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = _join(peak, root)
        return root
