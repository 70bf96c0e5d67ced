"""What a stage commits to at the end of a chunk: for every row a hash of all that came, of all that left, and of the
fingerprints of what it computed. Pure, and the same however rows were batched into steps and steps into frames.

Rows that are booked alike make one Merkle tree for each of the three, in the order of their keys, with BLAKE3 as its
hash. What left a stage is, byte for byte, what came to the next, so that one's tree over what came has the same root.
The matrix of the fingerprints follows from the root over what left (`print_seed`), which is signed: nobody knows it
before all outputs of the chunk are fixed, and whoever has the receipt knows it then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from deserve_kernels.fingerprints import PROJECTIONS, project
from deserve_ledger.commitments import RowPart, digest, hash_pair, print_seed, row_leaf
from deserve_ledger.merkle import MerkleTree
from deserve_network.ring_messages import RowLabel
from deserve_node.proof.passage import GatheredRow, Passage, gather, ids_run

__all__ = ["PRINT_BYTES", "Booked", "Booking", "RowWork", "Stretch", "commit", "drawn_stretch", "leaf_of"]

PRINT_BYTES = 4 * PROJECTIONS
"""Of a token's fingerprint."""


@dataclass(frozen=True, slots=True, order=True)
class Booking:
    """What rows share that are committed to, signed for and paid together."""

    job_id: bytes
    lease: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` consecutive positions of a row from `start`, and the BLAKE3 hash of all their bytes."""

    start: int
    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class RowWork:
    """One row's part of a chunk.

    `inputs` are the bytes that came, `prints` the fingerprints, float32 [count, 16]. The tail takes none, and nothing
    left it where it drew no token; `drawn` are the ids of those that it drew.
    """

    label: RowLabel
    codec: str
    token_bytes: int
    came: Stretch
    left: Stretch | None
    printed: Stretch | None
    inputs: memoryview
    prints: memoryview
    drawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Booked:
    """All rows of one booking in one chunk, in the order of their keys, and the trees over them."""

    booking: Booking
    rows: tuple[RowWork, ...]
    came: MerkleTree
    left: MerkleTree
    printed: MerkleTree

    @property
    def tokens(self) -> int:
        return sum(row.came.count for row in self.rows)

    @property
    def prefill_tokens(self) -> int:
        """Those of `tokens` at positions that their rows had when they were admitted; the others were drawn since."""
        return sum(min(row.came.count, max(0, row.label.prefill - row.came.start)) for row in self.rows)

    def proofs(self) -> Iterator[tuple[RowWork, tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]]:
        """Each row with what leads from its leaves of what came, left and was printed to the roots."""
        left = printed = 0
        for index, row in enumerate(self.rows):
            yield (
                row,
                self.came.proof(index),
                () if row.left is None else self.left.proof(left),
                () if row.printed is None else self.printed.proof(printed),
            )
            left += row.left is not None
            printed += row.printed is not None


def leaf_of(label: RowLabel, stretch: Stretch) -> bytes:
    """A row's leaf, 32 bytes."""
    place = (label.job_id, label.row, label.lease, label.attempt, stretch.start, stretch.count)
    return row_leaf(RowPart(*place), stretch.digest)


def drawn_stretch(first: int, ids: Sequence[int]) -> Stretch:
    """What left the tail: the ids drawn for positions from `first` on."""
    return Stretch(first, len(ids), digest(ids_run(ids).data))


def commit(
    passages: Sequence[Passage],
    labels: Mapping[int, RowLabel],
    work_id: Callable[[Booking], bytes],
    *,
    dtype: torch.dtype,
    hidden: int,
) -> list[Booked]:
    """The steps of one chunk, in their order, as what is committed to, in the order of bookings.

    `labels` are by sequence; rows without one are nobody's to pay for. Outputs are [tokens, `hidden`] in `dtype`.
    Raises `ValueError` for bytes that do not fit the chunks that they are said to be of.
    """
    rows_of: dict[Booking, list[GatheredRow]] = {}
    for row in sorted(gather(passages, labels, hidden * dtype.itemsize), key=lambda row: row.label.row):
        rows_of.setdefault(Booking(row.label.job_id, row.label.lease, row.label.attempt), []).append(row)
    # Where the codec keeps every bit, what left is what was computed: no second copy of it.
    same = all(passage.outputs is None for passage in passages)
    return [
        _booked(booking, rows, work_id, same, dtype=dtype, hidden=hidden) for booking, rows in sorted(rows_of.items())
    ]


def _booked(
    booking: Booking,
    rows: Sequence[GatheredRow],
    work_id: Callable[[Booking], bytes],
    same: bool,
    *,
    dtype: torch.dtype,
    hidden: int,
) -> Booked:
    _, inputs = _joined([row.came for row in rows])
    came = [Stretch(row.start, row.count, digest(part)) for row, part in zip(rows, inputs, strict=True)]
    if not rows[0].left:
        left = [drawn_stretch(row.first_drawn, row.drawn) if row.drawn else None for row in rows]
        left_tree, printed_tree = _tree(rows, left), _tree(rows, ())
        printed: Sequence[Stretch | None] = [None] * len(rows)
        prints = [memoryview(b"")] * len(rows)
    else:
        wire, parts = _joined([row.left for row in rows])
        left = [Stretch(row.start, row.count, digest(part)) for row, part in zip(rows, parts, strict=True)]
        left_tree = _tree(rows, left)
        outputs = wire if same else _joined([row.outputs for row in rows])[0]
        projected = project(
            torch.frombuffer(outputs, dtype=dtype).view(-1, hidden), print_seed(work_id(booking), left_tree.root)
        )
        prints = _split(projected.numpy().data.cast("B"), [row.count * PRINT_BYTES for row in rows])
        printed = [Stretch(row.start, row.count, digest(part)) for row, part in zip(rows, prints, strict=True)]
        printed_tree = _tree(rows, printed)
    works = tuple(
        RowWork(row.label, row.codec, row.token_bytes, *own, tuple(row.drawn))
        for row, own in zip(rows, zip(came, left, printed, inputs, prints, strict=True), strict=True)
    )
    return Booked(booking, works, _tree(rows, came), left_tree, printed_tree)


def _tree(rows: Sequence[GatheredRow], stretches: Sequence[Stretch | None]) -> MerkleTree:
    pairs = zip(rows, stretches, strict=False)
    return MerkleTree([leaf_of(row.label, stretch) for row, stretch in pairs if stretch is not None], hash_pair)


def _joined(pieces_of: Sequence[Sequence[memoryview]]) -> tuple[bytearray, list[memoryview]]:
    """All pieces of all rows in one buffer, and each row's part of it."""
    joined = bytearray().join([piece for pieces in pieces_of for piece in pieces])
    return joined, _split(memoryview(joined), [sum(piece.nbytes for piece in pieces) for pieces in pieces_of])


def _split(data: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    ends = list(itertools.accumulate(sizes))
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
