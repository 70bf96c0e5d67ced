"""What the roots in a WorkReceipt are made of: leaves of rows, the trees over them, and how two roots become one.

The bytes themselves are hashed by who has them; here are only the 32-byte hashes and how they hang together, so that
the node that commits, the coordinator that checks evidence and a panel that votes on it agree. Trees are built with
BLAKE3, because no contract looks into them: what it sees is the Keccak hash over two roots.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blake3 import blake3
from eth_hash.auto import keccak

from deserve_ledger.merkle import EMPTY_ROOT

__all__ = [
    "ChunkShown",
    "ReceiptRoots",
    "RowPart",
    "chunk_fault",
    "climb",
    "digest",
    "drawn_in_chunk",
    "hash_pair",
    "print_root_of",
    "print_seed",
    "root_of",
    "row_leaf",
]

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


def print_root_of(first: int, last: int, tree_root: bytes) -> bytes:
    """What a receipt of layers [first, last) has as the root over its fingerprints: it binds the receipt to the layers,
    so that nobody can hold others against it. `tree_root` is zero at the tail, which takes no fingerprints."""
    return blake3(b"\2" + struct.pack("<QQ", first, last) + tree_root).digest()


def print_seed(work_id: bytes, wire_root: bytes) -> bytes:
    """Of the matrix that one receipt's fingerprints are taken with, from the root over what left the stage."""
    return blake3(_SEED + work_id + wire_root).digest()


@dataclass(frozen=True, slots=True)
class ReceiptRoots:
    """What was signed for a chunk: a receipt's own roots, and those that they are made of.

    `previous_print_root`: as the stage before signed it, zero at the head or where it did not.
    """

    work_id: bytes
    in_root: bytes
    out_root: bytes
    wire_root: bytes
    print_root: bytes
    previous_print_root: bytes


@dataclass(frozen=True, slots=True)
class ChunkShown:
    """What is shown of a row's part of a chunk, and the paths to its roots.

    `prints` and `seed` where the stage has fingerprints. Else it is the tail, which drew the token ids `drawn` from
    position `first_drawn` on, maybe none.
    """

    part: RowPart
    first: int
    last: int
    """Layers [first, last) of the stage."""
    inputs: bytes
    in_path: Sequence[bytes]
    prints: bytes | None = None
    seed: bytes = b""
    print_path: Sequence[bytes] = ()
    drawn: Sequence[int] = ()
    first_drawn: int = 0
    out_path: Sequence[bytes] = ()


def chunk_fault(shown: ChunkShown, signed: ReceiptRoots) -> str | None:
    """What of `shown` is not what was signed for, in words without a subject; None where everything is."""
    part = shown.part
    came = climb(row_leaf(part, digest(shown.inputs)), shown.in_path)
    # Where the ring ended before the stage before had closed the chunk, its fingerprints are not in it.
    if signed.in_root not in (root_of(came, signed.previous_print_root), root_of(came, EMPTY_ROOT)):
        return "the inputs are not those that were signed for"
    if root_of(signed.wire_root, signed.print_root) != signed.out_root:
        return "the receipt is not over its own roots"
    prints_root = EMPTY_ROOT
    if shown.prints is not None:
        if shown.seed != print_seed(signed.work_id, signed.wire_root):
            return "the fingerprints have another seed than what left the stage gives"
        prints_root = climb(row_leaf(part, digest(shown.prints)), shown.print_path)
    if print_root_of(shown.first, shown.last, prints_root) != signed.print_root:
        return "the fingerprints, or the layers, are not those that were signed for"
    if shown.drawn:
        ids = struct.pack(f"<{len(shown.drawn)}i", *shown.drawn)
        drawn = replace(part, start=shown.first_drawn, count=len(shown.drawn))
        if climb(row_leaf(drawn, digest(ids)), shown.out_path) != signed.wire_root:
            return "the drawn tokens are not those that were signed for"
    return None


def drawn_in_chunk(part: RowPart, known: int, drawn: Sequence[int]) -> tuple[int, Sequence[int]] | None:
    """Which of a row's `drawn` ids the steps of this chunk drew, and the position of the first; the row began with
    `known` tokens. A token is drawn by the step that computes the position before it. None where some are missing."""
    first, end = max(part.start + 1, known), part.start + part.count + 1
    ids = drawn[first - known : max(first, end) - known]
    return (first, ids) if len(ids) == max(0, end - first) else None
