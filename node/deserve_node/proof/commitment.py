"""What a stage commits to at the end of a chunk: for every row a hash of all that came, of all that left, and of the
fingerprints of what it computed. Pure, and the same however rows were batched into steps and steps into frames.

Rows that are booked alike make one Merkle tree for each of the three, in the order of their keys, with BLAKE3 as its
hash. What left a stage is, byte for byte, what came to the next, so that one's tree over what came has the same root.
The matrix of the fingerprints follows from the root over what left (`print_seed`), which is signed: nobody knows it
before all outputs of the chunk are fixed, and whoever has the receipt knows it then.
"""

from __future__ import annotations

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
    output_bytes = hidden * dtype.itemsize
    gathered, outputs = gather(passages, labels, lambda label: (_booking(label), label.row), output_bytes)
    rows_of: dict[Booking, list[GatheredRow]] = {}
    for row in gathered:
        rows_of.setdefault(_booking(row.label), []).append(row)
    booked = []
    for booking, rows in rows_of.items():
        own, outputs = _cut(outputs, output_bytes * sum(row.count for row in rows))
        states = torch.frombuffer(own, dtype=dtype).view(-1, hidden) if own.nbytes else None
        booked.append(_booked(rows, booking, work_id(booking), states))
    return booked


def _cut(data: memoryview, size: int) -> tuple[memoryview, memoryview]:
    return data[:size], data[size:]


def _booking(label: RowLabel) -> Booking:
    return Booking(label.job_id, label.lease, label.attempt)


def _booked(rows: Sequence[GatheredRow], booking: Booking, work_id: bytes, outputs: torch.Tensor | None) -> Booked:
    """`outputs` [tokens, hidden] of all rows, one after the other; None at the tail."""
    came = [Stretch(row.start, row.count, digest(row.came)) for row in rows]
    left = [_left(row) for row in rows]
    left_tree = _tree(rows, left)
    prints = [memoryview(b"")] * len(rows)
    printed: list[Stretch | None] = [None] * len(rows)
    if outputs is not None:
        # One product for all rows: starting threads for each took twenty times as long as multiplying.
        projected = project(outputs, print_seed(work_id, left_tree.root)).numpy().data.cast("B")
        for place, row in enumerate(rows):
            prints[place], projected = _cut(projected, row.count * PRINT_BYTES)
            printed[place] = Stretch(row.start, row.count, digest(prints[place]))
    works = tuple(
        RowWork(row.label, row.codec, row.came.nbytes // row.count, *stretches, row.came, own, tuple(row.drawn))
        for row, stretches, own in zip(rows, zip(came, left, printed, strict=True), prints, strict=True)
    )
    return Booked(booking, works, _tree(rows, came), left_tree, _tree(rows, printed))


def _left(row: GatheredRow) -> Stretch | None:
    if row.left is not None:
        return Stretch(row.start, row.count, digest(row.left))
    return drawn_stretch(row.first_drawn, row.drawn) if row.drawn else None


def _tree(rows: Sequence[GatheredRow], stretches: Sequence[Stretch | None]) -> MerkleTree:
    pairs = zip(rows, stretches, strict=False)
    return MerkleTree([leaf_of(row.label, stretch) for row, stretch in pairs if stretch is not None], hash_pair)
