"""Rows through one stage's engine, honest or not, and what that stage would show of them under audit.

Stands in for a ring: the inputs of all positions are computed beforehand in float32, only the tail draws its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from deserve_kernels.codecs import CODECS
from deserve_kernels.fingerprints import project
from deserve_models import ModelFiles, inspect
from deserve_network.audit_messages import ChunkSpan, RowEvidence, TailEvidence
from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.audit.cheats import CHEATS, HONEST
from deserve_node.audit.replay import Replayer
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.interface import StageEngine
from deserve_node.shard.loading import load_shard
from deserve_node.tensors import DTYPES

CPU = torch.device("cpu")
STEPS_A_CHUNK = 64
KV_BYTES = 512 << 20


@dataclass(frozen=True)
class Shown:
    """One row: evidence with its body, and the same of the stage after, whose inputs only are given."""

    evidence: RowEvidence
    body: memoryview
    following: tuple[RowEvidence, memoryview] | None = None


def stage_engine(
    files: ModelFiles,
    first: int,
    last: int,
    dtype: str,
    *,
    cheat: str = "",
    fused: bool = True,
    kv_bytes: int = KV_BYTES,
) -> StageEngine:
    """The engine of layers [first, last), as `load_stage` makes it but without measuring anything."""
    misdeed = CHEATS[cheat] if cheat else HONEST
    shard = load_shard(
        files,
        first,
        last,
        dtype=DTYPES[dtype],
        device=CPU,
        fused=fused,
        change=misdeed.change,
        left_out=(first + last) // 2 if misdeed.skips else None,
    )
    cache = KvCache(shard.kv_layers, kv_bytes=KV_BYTES, dtype=DTYPES[dtype], device=CPU)
    return misdeed.wrap(Engine(shard, cache))


def entering(files: ModelFiles, first: int, dtype: str, ids: Sequence[Tensor], codec: str) -> list[memoryview]:
    """The wire bytes of each row of token ids int64 [tokens] as layers [first, ...) get them."""
    if first == 0:
        return [memoryview(row.numpy().astype("<i4").tobytes()) for row in ids]
    before = Replayer(files, dtype=DTYPES[dtype], device=CPU)
    return [_packed(before.outputs(0, first, row).to(DTYPES[dtype]), codec) for row in ids]


class Recorder:
    """`engine` computes layers [first, last) of `files` in `dtype`; rows come packed by `codec` and leave so."""

    def __init__(
        self, files: ModelFiles, engine: StageEngine, first: int, last: int, dtype: str, *, codec: str = "raw"
    ) -> None:
        self._engine = engine
        self._summary = inspect(files)
        self._place = (first, last)
        self._dtype = dtype
        self._codec = codec
        self._sequences = 0

    def rows(self, wires: Sequence[memoryview], *, prompt: int, batch: int) -> list[Shown]:
        """What is shown of rows of one length whose inputs are `wires`: `prompt` positions at once, then one a step."""
        shown: list[Shown] = []
        for start in range(0, len(wires), batch):
            together = wires[start : start + batch]
            shown.extend(map(self._shown, together, self._served([self._unpacked(wire) for wire in together], prompt)))
        return shown

    def tail_rows(
        self, before: StageEngine, ids: Sequence[Tensor], samplings: Sequence[Sampling], *, draws: int
    ) -> list[Shown]:
        """What a tail shows of prompts int64 [tokens], each with as many as the others, after `draws` draws. `before`
        computes the layers in front of it."""
        dtype = DTYPES[self._dtype]
        sequences = list(range(self._sequences, self._sequences + len(ids)))
        self._sequences += len(ids)
        for sequence, row, sampling in zip(sequences, ids, samplings, strict=True):
            self._engine.admit(Admit("", 0, sequence, sampling, tuple(row.tolist())))
        feed, start = torch.stack(list(ids)), 0
        came: list[Tensor] = []
        drawn: list[list[int]] = [[] for _ in ids]
        for _ in range(draws):
            chunks = [Chunk(sequence, start, feed.shape[1], 1) for sequence in sequences]
            hidden = before.run(chunks, feed.flatten()).hidden
            assert hidden is not None
            sent = _unpack(_packed(hidden.to(dtype), self._codec), self._codec, self._summary.hidden_size, dtype)
            came.append(sent.view(len(ids), -1, self._summary.hidden_size))
            for row, token in enumerate(self._engine.run(chunks, sent).drawn):
                drawn[row].append(token.token)
            start += feed.shape[1]
            feed = torch.tensor([[own[-1]] for own in drawn])
        self._engine.release(sequences)
        before.release(sequences)
        inputs = torch.cat(came, dim=1)
        return [
            self._shown_tail(_packed(row, self._codec), TailEvidence(sampling, tuple(prompt.tolist()), (), tuple(own)))
            for row, sampling, prompt, own in zip(inputs, samplings, ids, drawn, strict=True)
        ]

    def _unpacked(self, wire: memoryview) -> Tensor:
        if self._place[0] == 0:
            return torch.from_numpy(np.frombuffer(wire, "<i4").astype(np.int64))
        return _unpack(wire, self._codec, self._summary.hidden_size, DTYPES[self._dtype])

    def _served(self, rows: Sequence[Tensor], prompt: int) -> Tensor:
        packed = torch.stack(list(rows))
        sequences = list(range(self._sequences, self._sequences + len(rows)))
        self._sequences += len(rows)
        outputs = []
        spans = [(0, prompt), *((position, 1) for position in range(prompt, packed.shape[1]))]
        for start, count in spans:
            chunks = [Chunk(sequence, start, count, 0) for sequence in sequences]
            hidden = self._engine.run(chunks, packed[:, start : start + count].flatten(0, 1)).hidden
            assert hidden is not None
            outputs.append(hidden.view(len(rows), count, -1).clone())
        self._engine.release(sequences)
        return torch.cat(outputs, dim=1)

    def _shown(self, wire: memoryview, outputs: Tensor) -> Shown:
        first, last = self._place
        tokens = len(outputs)
        left = _packed(outputs, self._codec)
        spans = tuple(
            ChunkSpan(number, start, min(STEPS_A_CHUNK, tokens - start), blake3(bytes(left) + bytes([number])).digest())
            for number, start in enumerate(range(0, tokens, STEPS_A_CHUNK))
        )
        prints = torch.cat([project(outputs[s.start : s.start + s.count], s.seed) for s in spans])
        codec = "ids" if first == 0 else self._codec
        evidence = RowEvidence(first, last, codec, self._dtype, wire.nbytes // tokens, spans)
        after = RowEvidence(last, self._summary.num_layers, self._codec, self._dtype, left.nbytes // tokens, spans)
        return Shown(evidence, memoryview(bytes(wire) + prints.numpy().tobytes()), (after, left))

    def _shown_tail(self, wire: memoryview, tail: TailEvidence) -> Shown:
        tokens = len(tail.prompt) + len(tail.drawn) - 1
        spans = (ChunkSpan(0, 0, tokens, bytes(32)),)
        evidence = RowEvidence(*self._place, self._codec, self._dtype, wire.nbytes // tokens, spans, tail)
        return Shown(evidence, wire)


def _packed(hidden: Tensor, codec: str) -> memoryview:
    return memoryview(bytes(CODECS[codec].encode(hidden)))


def _unpack(wire: memoryview, codec: str, hidden: int, dtype: torch.dtype) -> Tensor:
    tokens = wire.nbytes // CODECS[codec].bytes_per_token(hidden, dtype)
    return CODECS[codec].decode(wire, (tokens, hidden), dtype)
