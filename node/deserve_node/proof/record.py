"""How one row's part of one chunk lies on disk, and whether it is what a receipt commits to. Pure.

A row's file is a sequence of records: two lengths, a msgpack array, the bytes that came, the fingerprints. What a crash
cut off at the end is no record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgpack  # type: ignore[import-untyped]

from deserve_ledger.commitments import climb, digest, print_root_of, root_of
from deserve_ledger.merkle import EMPTY_ROOT
from deserve_network.money_messages import SignedReceipt
from deserve_network.ring_messages import RowLabel
from deserve_node.proof.commitment import PRINT_BYTES, RowWork, Stretch, leaf_of
from deserve_node.proof.errors import EvidenceError

__all__ = ["RowRecord", "check_record", "pack_record", "scan"]

_LENGTHS = struct.Struct("<IQ")
_MOST_HEADER = 16 << 20
Proof = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RowRecord:
    """What is known of the row's positions in `came`; the bytes themselves are at `offset` of its file.

    `wire_root` is that of the whole booking over what left. `admit` (tail only): the row's encoded `Admit`, in the
    first record of a row. `drawn`: the ids that the tail drew.
    """

    chunk: int
    codec: str
    token_bytes: int
    came: Stretch
    left: Stretch | None
    printed: Stretch | None
    came_proof: Proof
    left_proof: Proof
    print_proof: Proof
    wire_root: bytes
    admit: bytes = b""
    drawn: tuple[int, ...] = ()
    offset: int = 0

    @property
    def input_bytes(self) -> int:
        return self.came.count * self.token_bytes

    @property
    def print_bytes(self) -> int:
        return 0 if self.printed is None else self.printed.count * PRINT_BYTES


def pack_record(record: RowRecord, row: RowWork) -> list[bytes | memoryview]:
    """What is appended to the row's file."""
    header = msgpack.packb(
        [
            record.chunk,
            record.codec,
            record.token_bytes,
            _stretch(record.came),
            None if record.left is None else _stretch(record.left),
            None if record.printed is None else _stretch(record.printed),
            record.came_proof,
            record.left_proof,
            record.print_proof,
            record.wire_root,
            record.admit,
            record.drawn,
        ]
    )
    return [_LENGTHS.pack(len(header), row.inputs.nbytes + row.prints.nbytes), header, row.inputs, row.prints]


def scan(file: BinaryIO) -> Iterator[RowRecord]:
    """The whole records of a row's file, in order. Raises `EvidenceError` for one that is damaged."""
    size = file.seek(0, 2)
    offset = 0
    while offset + _LENGTHS.size <= size:
        file.seek(offset)
        header_bytes, body_bytes = _LENGTHS.unpack(file.read(_LENGTHS.size))
        begin = offset + _LENGTHS.size + header_bytes
        if begin + body_bytes > size:
            return
        if header_bytes > _MOST_HEADER:
            raise EvidenceError(f"a record header of {header_bytes} bytes")
        record = _record(file.read(header_bytes), begin)
        if record.input_bytes + record.print_bytes != body_bytes:
            raise EvidenceError(f"a record of {body_bytes} bytes for {record.came.count} tokens")
        yield record
        offset = begin + body_bytes


def check_record(
    record: RowRecord,
    label: RowLabel,
    inputs: bytes,
    prints: bytes,
    receipt: SignedReceipt,
    previous_print_root: bytes,
    layers: tuple[int, int],
) -> None:
    """Raises `EvidenceError` where this is not what `receipt` commits to. Its signature is the caller's to check."""
    if (record.chunk, record.wire_root) != (receipt.chunk, receipt.wire_root):
        raise EvidenceError(f"evidence of chunk {record.chunk} where the receipt is for chunk {receipt.chunk}")
    _check(record.came, inputs, "what came")
    came_root = climb(leaf_of(label, record.came), record.came_proof)
    if root_of(came_root, previous_print_root) != receipt.in_root:
        raise EvidenceError("what came is not under the receipt's inRoot")
    if root_of(receipt.wire_root, receipt.print_root) != receipt.out_root:
        raise EvidenceError("the receipt's roots do not make its outRoot")
    left = None if record.left is None else climb(leaf_of(label, record.left), record.left_proof)
    if left is not None and left != receipt.wire_root:
        raise EvidenceError("what left is not under the receipt's outRoot")
    printed = EMPTY_ROOT
    if record.printed is not None:
        _check(record.printed, prints, "the fingerprints")
        printed = climb(leaf_of(label, record.printed), record.print_proof)
    if print_root_of(*layers, printed) != receipt.print_root:
        raise EvidenceError("the fingerprints are not under the receipt's outRoot")


def _check(stretch: Stretch, data: bytes, what: str) -> None:
    if digest(data) != stretch.digest:
        raise EvidenceError(f"{what} at positions from {stretch.start} is not what was committed to")


def _stretch(stretch: Stretch) -> list[Any]:
    return [stretch.start, stretch.count, stretch.digest]


def _record(header: bytes, offset: int) -> RowRecord:
    try:
        chunk, codec, token_bytes, came, left, printed, *proofs, wire_root, admit, drawn = msgpack.unpackb(header)
        came_proof, left_proof, print_proof = map(tuple, proofs)
        return RowRecord(
            chunk,
            codec,
            token_bytes,
            Stretch(*came),
            None if left is None else Stretch(*left),
            None if printed is None else Stretch(*printed),
            came_proof,
            left_proof,
            print_proof,
            wire_root,
            admit,
            tuple(drawn),
            offset,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise EvidenceError(f"a record header that is damaged: {error}") from error
