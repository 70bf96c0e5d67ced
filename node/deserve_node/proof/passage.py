"""The steps of one chunk as they passed a stage, and the bytes of each row in them, put together. Pure.

A step packs many rows; a row's bytes are the same however that was done. No codec lets a token's bytes depend on the
tokens around it, so they can be cut out of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deserve_network.ring_messages import Chunk, RowLabel, SampledToken
from deserve_node.proof.layout import Integers, Layout, Run

__all__ = ["IDS", "GatheredRow", "Passage", "Run", "gather", "ids_run"]

IDS = "ids"
"""In place of a codec: token ids, int32 little-endian."""
ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Passage:
    """One step. `left` are the bytes that it left with, none at the tail, which has `drawn`.

    `outputs`: the hidden states as they were computed, as bytes of [tokens, hidden]; None where `left` are just these.
    `sequences`, `starts` and `counts` are those of its chunks, `drawn` (sequence, position, token id).
    """

    sequences: Integers
    starts: Integers
    counts: Integers
    came: Sequence[Run]
    left: Sequence[Run]
    outputs: memoryview | None
    drawn: Sequence[tuple[int, int, int]]

    @classmethod
    def of(
        cls,
        chunks: Sequence[Chunk],
        came: Sequence[Run],
        left: Sequence[Run] = (),
        outputs: memoryview | None = None,
        drawn: Sequence[SampledToken] = (),
    ) -> Passage:
        return cls(
            np.fromiter([chunk.sequence for chunk in chunks], np.int64, len(chunks)),
            np.fromiter([chunk.start for chunk in chunks], np.int64, len(chunks)),
            np.fromiter([chunk.count for chunk in chunks], np.int64, len(chunks)),
            came,
            left,
            outputs,
            [(token.sequence, token.position, token.token) for token in drawn],
        )


@dataclass(slots=True, eq=False)
class GatheredRow:
    """One row's bytes, in order of positions, from position `start`. Nothing but `drawn` ids leave the tail."""

    label: RowLabel
    start: int
    count: int = 0
    codec: str = ""
    """Of what came."""
    came: memoryview = field(default_factory=lambda: memoryview(b""))
    left: memoryview | None = None
    first_drawn: int = 0
    drawn: list[int] = field(default_factory=list)


def ids_run(tokens: Sequence[int]) -> Run:
    """Token ids as bytes."""
    return Run(IDS, ID_BYTES, np.array(tokens, "<i4").data.cast("B"))


def gather(
    passages: Sequence[Passage],
    labels: Mapping[int, RowLabel],
    order: Callable[[RowLabel], Any],
    output_bytes: int,
) -> tuple[list[GatheredRow], memoryview]:
    """The rows that have a label (by sequence), in `order`, and all their outputs, row after row; none at the tail.

    A token's outputs take `output_bytes`. Raises `ValueError` for bytes that do not fit the chunks that they are said
    to be of.
    """
    sequences, first, row_of = np.unique(
        np.concatenate([step.sequences for step in passages]), return_index=True, return_inverse=True
    )
    starts = np.concatenate([step.starts for step in passages])[first]
    counts = np.concatenate([step.counts for step in passages])
    lengths = np.zeros(len(sequences), np.int64)
    np.add.at(lengths, row_of, counts)
    found = [(labels[sequence], place) for place, sequence in enumerate(sequences.tolist()) if sequence in labels]
    found.sort(key=lambda pair: order(pair[0]))
    rows = [GatheredRow(label, int(starts[place]), int(lengths[place])) for label, place in found]
    slots = np.full(len(sequences), -1, np.int64)
    slots[[place for _, place in found]] = np.arange(len(found))
    layout = Layout(slots[row_of], counts, [row.count for row in rows])
    came, _ = layout.lay_out([step.came for step in passages])
    for row, (codec, data) in zip(rows, came, strict=True):
        row.codec, row.came = codec, data
    outputs = memoryview(b"")
    if rows and all(step.left for step in passages):
        left, whole = layout.lay_out([step.left for step in passages])
        for row, (_, data) in zip(rows, left, strict=True):
            row.left = data
        if any(step.outputs is not None for step in passages):
            _, whole = layout.lay_out([_plain(step, output_bytes) for step in passages])
        (outputs,) = whole.values()
    _add_drawn(passages, {int(sequences[place]): row for row, (_, place) in zip(rows, found, strict=True)})
    return rows, outputs


def _plain(step: Passage, output_bytes: int) -> Sequence[Run]:
    # A codec that keeps every bit writes the outputs themselves.
    data = step.outputs if step.outputs is not None else memoryview(b"".join(run.data for run in step.left))
    return (Run("raw", output_bytes, data),)


def _add_drawn(passages: Sequence[Passage], rows: Mapping[int, GatheredRow]) -> None:
    for step in passages:
        for sequence, position, token in step.drawn:
            if (row := rows.get(sequence)) is not None:
                if not row.drawn:
                    row.first_drawn = position
                row.drawn.append(token)
