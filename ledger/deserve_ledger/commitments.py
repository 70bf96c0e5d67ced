"""What the roots in a WorkReceipt are made of: leaves of rows, the trees over them, and how two roots become one.

The bytes themselves are hashed by who has them; here are only the 32-byte hashes and how they hang together, so that
the node that commits, the coordinator that checks evidence and a panel that votes on it agree. Trees are built with
BLAKE3, because no contract looks into them: what it sees is the Keccak hash over two roots.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3
from eth_hash.auto import keccak

__all__ = ["RowPart", "climb", "digest", "hash_pair", "print_seed", "root_of", "row_leaf"]

_SEED = b"deserve-net/fingerprint/chunk/1"


@dataclass(frozen=True, slots=True)
class RowPart:
    """`count` consecutive positions of a row from `start`, under the lease and attempt that it was computed in."""

    job_id: bytes
    row: int
    lease: int
    attempt: int
    start: int
    count: int


def digest(data: bytes | memoryview) -> bytes:
    """BLAKE3 of what crossed the wire, of fingerprints or of token ids, 32 bytes."""
    return blake3(data).digest()


def row_leaf(part: RowPart, content: bytes) -> bytes:
    """A row's leaf: over what it is of, and the `digest` of its bytes."""
    place = struct.pack("<qQQQQ", part.row, part.lease, part.attempt, part.start, part.count)
    return blake3(b"\0" + part.job_id + place + content).digest()


def hash_pair(one: bytes, other: bytes) -> bytes:
    """The parent of two nodes of these trees, whichever comes first."""
    return blake3(b"\1" + min(one, other) + max(one, other)).digest()


def climb(leaf: bytes, path: Sequence[bytes]) -> bytes:
    """The root that siblings lead to from `leaf`."""
    for sibling in path:
        leaf = hash_pair(leaf, sibling)
    return leaf


def root_of(wire_root: bytes, print_root: bytes) -> bytes:
    """`outRoot` of a receipt, from the roots over what left the stage and over the fingerprints of it. `inRoot`: from
    the root over what came, and what the stage before says of its fingerprints."""
    return keccak(wire_root + print_root)


def print_seed(work_id: bytes, wire_root: bytes) -> bytes:
    """Of the matrix that one receipt's fingerprints are taken with, from the root over what left the stage."""
    return blake3(_SEED + work_id + wire_root).digest()
