"""Bytes of many rows' tokens, which came step by step, laid out row by row. Pure.

Whole steps are moved at a time: an object for every row and step, 4096 in a chunk of 64 rows, cost more than hashing
the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Integers", "Layout", "Run"]

Integers = npt.NDArray[np.int64]
Laid = tuple[list[tuple[str, memoryview]], dict[str, memoryview]]


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of consecutive tokens in packed order, `token_bytes` each, written by `codec`."""

    codec: str
    token_bytes: int
    data: memoryview

    @property
    def tokens(self) -> int:
        return self.data.nbytes // self.token_bytes


class Layout:
    """Of all chunks of all steps, in order: `slots` says which row each is of (-1: none), `counts` its tokens.
    `lengths` are the tokens of each row."""

    def __init__(self, slots: Integers, counts: Integers, lengths: Sequence[int]) -> None:
        self._slots = slots
        self._counts = counts
        self._lengths = np.array(lengths, np.int64)
        self._ends = np.cumsum(counts)
        """Of each chunk, in tokens of all steps."""
        self._mine = None if (slots >= 0).all() else np.repeat(slots >= 0, counts)
        self._one_codec: Integers | None = None

    def lay_out(self, steps: Sequence[Sequence[Run]]) -> Laid:
        """The codec and bytes of each row, which are parts of all bytes of that codec, in the order of rows.

        Raises `ValueError` for runs that do not fit the chunks, and for a row in two codecs.
        """
        widths, borders = self._check(steps)
        if len(widths) == 1:
            row_codecs = np.zeros(len(self._lengths), np.int64)
            if self._one_codec is None:
                self._one_codec = self._targets(row_codecs, 1)
            targets = self._one_codec
        else:
            row_codecs = self._row_codecs(steps, list(widths), borders)
            targets = self._targets(row_codecs, len(widths))
        sizes = [int(self._lengths[row_codecs == number].sum()) for number in range(len(widths))]
        buffers = {
            codec: np.empty((size, width), np.uint8) for (codec, width), size in zip(widths.items(), sizes, strict=True)
        }
        begin = 0
        for runs in steps:
            for run in runs:
                own = slice(begin, begin := begin + run.tokens)
                data = np.frombuffer(run.data, np.uint8).reshape(-1, run.token_bytes)
                if self._mine is None:
                    buffers[run.codec][targets[own]] = data
                elif (kept := self._mine[own]).any():
                    buffers[run.codec][targets[own][kept]] = data[kept]
        views = {codec: buffer.reshape(-1).data for codec, buffer in buffers.items()}
        return self._rows(row_codecs, widths, views), views

    def _check(self, steps: Sequence[Sequence[Run]]) -> tuple[dict[str, int], Integers]:
        """Bytes a token by codec, and where each run ends."""
        widths: dict[str, int] = {}
        runs = [run for step in steps for run in step]
        for run in runs:
            if widths.setdefault(run.codec, run.token_bytes) != run.token_bytes:
                raise ValueError(f"tokens of two lengths in {run.codec}")
        borders = np.cumsum([run.tokens for run in runs])
        if borders[-1] != self._ends[-1] or not np.isin(borders, self._ends).all():
            raise ValueError("a row's bytes are packed by two codecs, or are not as many as its tokens")
        return widths, borders

    def _row_codecs(self, steps: Sequence[Sequence[Run]], codecs: Sequence[str], borders: Integers) -> Integers:
        """Which of `codecs` each row is in."""
        run_codecs = np.array([codecs.index(run.codec) for step in steps for run in step])
        of_chunks = run_codecs[np.searchsorted(borders, self._ends)]
        mine = self._slots >= 0
        found = np.zeros(len(self._lengths), np.int64)
        found[self._slots[mine]] = of_chunks[mine]
        if (found[self._slots[mine]] != of_chunks[mine]).any():
            raise ValueError("a row changes its codec")
        return found

    def _targets(self, row_codecs: Integers, codecs: int) -> Integers:
        """For each token of all steps, which token of its codec's buffer it becomes."""
        begins = np.zeros(len(self._counts), np.int64)
        of_chunks = np.where(self._slots >= 0, row_codecs[self._slots] if len(row_codecs) else 0, -1)
        for number in range(codecs):
            (chosen,) = np.nonzero((of_chunks == number) & (self._slots >= 0))
            # Stable: chunks of a row stay in the order in which they came.
            chosen = chosen[np.argsort(self._slots[chosen], kind="stable")]
            begins[chosen] = np.cumsum(self._counts[chosen]) - self._counts[chosen]
        return np.repeat(begins - (self._ends - self._counts), self._counts) + np.arange(self._ends[-1])

    def _rows(
        self, row_codecs: Integers, widths: dict[str, int], views: dict[str, memoryview]
    ) -> list[tuple[str, memoryview]]:
        codecs, written = list(widths), dict.fromkeys(widths, 0)
        rows = []
        for number, length in zip(row_codecs.tolist(), self._lengths.tolist(), strict=True):
            codec = codecs[number]
            begin = written[codec]
            written[codec] = end = begin + length * widths[codec]
            rows.append((codec, views[codec][begin:end]))
        return rows
