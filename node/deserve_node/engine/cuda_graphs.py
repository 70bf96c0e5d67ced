"""Decode steps as recorded CUDA graphs: one launch instead of some twenty a layer. Not run on a GPU yet.

Recorded when a bucket of rows is first seen, and kept only where replaying is faster than computing eagerly. What
cannot be recorded, because a model's own code looks at values on the host, is computed eagerly from then on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine.batch import PackedBatch
from deserve_node.engine.cache import KvCache
from deserve_node.engine.decode_buffers import DecodeBuffers, bucket, is_decode
from deserve_node.engine.forward import forward
from deserve_node.shard import Shard

__all__ = ["DecodeGraphs"]

log = logging.getLogger(__name__)

MOST_ROWS = 512
WARM_UPS = 3
"""Eager runs before recording: Triton compiles, cuBLAS chooses, allocators fill."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    buffers: DecodeBuffers
    graph: torch.cuda.CUDAGraph
    outputs: torch.Tensor


class DecodeGraphs:
    """The graphs of one shard and its cache."""

    def __init__(self, shard: Shard, cache: KvCache) -> None:
        self._shard = shard
        self._cache = cache
        self._recorded: dict[tuple[int, bool], _Recorded | None] = {}
        """By rows and whether logits are wanted; None where eager is better, or all there is."""
        self._memory = torch.cuda.graph_pool_handle()
        """For all graphs: only one replays at a time, and its result is taken before the next does."""

    def take(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a step of these chunks is replayed, or is going to be recorded."""
        if len(chunks) > MOST_ROWS or not is_decode(chunks):
            return False
        key = self._key(chunks)
        return key not in self._recorded or self._recorded[key] is not None

    def run(self, chunks: Sequence[Chunk], batch: PackedBatch, inputs: torch.Tensor) -> torch.Tensor:
        """As `forward`, for a step that it takes. Logits hold until the next call; hidden states are the caller's."""
        key = self._key(chunks)
        if key not in self._recorded:
            self._recorded[key] = self._record(*key, batch, inputs)
        recorded = self._recorded[key]
        if recorded is None:
            return forward(self._shard, self._cache, batch, inputs)
        recorded.buffers.fill(batch, inputs)
        recorded.graph.replay()
        outputs = recorded.outputs[: batch.tokens]
        # Hidden states are still being packed for the link when the next step is replayed over them.
        return outputs if self._shard.is_tail else outputs.clone()

    def _key(self, chunks: Sequence[Chunk]) -> tuple[int, bool]:
        return bucket(len(chunks)), bool(chunks[0].wanted) and self._shard.is_tail

    def _record(self, rows: int, wanted: bool, batch: PackedBatch, inputs: torch.Tensor) -> _Recorded | None:
        shard, device = self._shard, self._shard.device
        buffers = DecodeBuffers(rows, shard.context_length, self._cache.shapes, device, wanted=wanted)
        buffers.fill(batch, inputs)
        assert buffers.inputs is not None
        static = buffers.inputs

        def eager() -> torch.Tensor:
            return forward(shard, self._cache, buffers.batch, static)

        # The keys and values that these runs write are those that the step itself writes.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                eager()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # By default what any thread does may spoil the recording, and others pin memory and wait for their copies.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                outputs = eager()
        except RuntimeError as error:
            log.warning("decode steps of %d rows are computed without a CUDA graph: %s", rows, error)
            return None
        pays = _taken_s(graph.replay, device) < _taken_s(eager, device)
        return _Recorded(buffers, graph, outputs) if pays else None


def _taken_s(run: Callable[[], object], device: torch.device) -> float:
    best_s = float("inf")
    for _ in range(WARM_UPS):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s
