"""The steps of one chunk as they passed a stage, and the bytes of each row in them, put together. Pure.

A step packs many rows; a row's bytes are the same however that was done. No codec lets a token's bytes depend on the
tokens around it, so they can be cut out of a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deserve_network.ring_messages import Chunk, RowLabel, SampledToken

__all__ = ["IDS", "GatheredRow", "Passage", "Run", "gather", "ids_run"]

IDS = "ids"
"""In place of a codec: token ids, int32 little-endian."""
ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of consecutive tokens in packed order, `token_bytes` each, written by `codec`."""

    codec: str
    token_bytes: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Passage:
    """One step. `left` are the bytes that it left with, none at the tail, which has `drawn`.

    `outputs`: the hidden states as they were computed, as bytes of [tokens, hidden]; None where `left` are just these.
    """

    chunks: Sequence[Chunk]
    came: Sequence[Run]
    left: Sequence[Run] = ()
    outputs: memoryview | None = None
    drawn: Sequence[SampledToken] = ()


@dataclass(slots=True, eq=False)
class GatheredRow:
    """One row's bytes in pieces, in order of positions, from position `start`."""

    label: RowLabel
    start: int
    codec: str
    token_bytes: int
    count: int = 0
    came: list[memoryview] = field(default_factory=list)
    left: list[memoryview] = field(default_factory=list)
    outputs: list[memoryview] = field(default_factory=list)
    first_drawn: int = 0
    drawn: list[int] = field(default_factory=list)


def ids_run(tokens: Sequence[int]) -> Run:
    """Token ids as bytes."""
    return Run(IDS, ID_BYTES, memoryview(struct.pack(f"<{len(tokens)}i", *tokens)))


def gather(passages: Sequence[Passage], labels: Mapping[int, RowLabel], output_bytes: int) -> list[GatheredRow]:
    """The rows that have a label (by sequence); a token's outputs take `output_bytes`.

    Raises `ValueError` for runs that do not fit their chunks.
    """
    rows: dict[int, GatheredRow] = {}
    for passage in passages:
        came = _cuts(passage.came, passage.chunks)
        left = _cuts(passage.left, passage.chunks) if passage.left else None
        token = 0
        for chunk in passage.chunks:
            run, begin, end = next(came)
            leaving = next(left) if left is not None else None
            first, token = token, token + chunk.count
            if (row := rows.get(chunk.sequence)) is None:
                if (label := labels.get(chunk.sequence)) is None:
                    continue
                row = rows[chunk.sequence] = GatheredRow(label, chunk.start, run.codec, run.token_bytes)
            row.count += chunk.count
            row.came.append(run.data[begin:end])
            if leaving is not None:
                wire = leaving[0].data[leaving[1] : leaving[2]]
                row.left.append(wire)
                outputs = passage.outputs
                row.outputs.append(wire if outputs is None else outputs[first * output_bytes : token * output_bytes])
        for drawn in passage.drawn:
            if (row := rows.get(drawn.sequence)) is not None:
                if not row.drawn:
                    row.first_drawn = drawn.position
                row.drawn.append(drawn.token)
    return list(rows.values())


def _cuts(runs: Sequence[Run], chunks: Sequence[Chunk]) -> Iterator[tuple[Run, int, int]]:
    """Where each chunk's bytes are: in which run, from where, to where."""
    following = iter(runs)
    run, begin = next(following), 0
    for chunk in chunks:
        if begin == run.data.nbytes and (after := next(following, None)) is not None:
            run, begin = after, 0
        end = begin + chunk.count * run.token_bytes
        if end > run.data.nbytes:
            raise ValueError(f"{chunk} is packed by two codecs, or has too few bytes")
        yield run, begin, end
        begin = end
