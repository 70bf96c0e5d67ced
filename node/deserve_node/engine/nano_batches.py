"""A step in parts that are computed one after the other, on a GPU side by side on two streams: NanoFlow's nano-batches.

While one part waits for memory, as decode attention does, another may keep the arithmetic busy; on a CPU a smaller part
may stay in the cache. Whether that is so is measured (`deserve_node.nano_parts`). Each part is padded as a step is, so
no token depends on how a step was cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from deserve_network.ring_messages import Chunk
from deserve_node.shard.shard import ROW_MULTIPLE

__all__ = ["NanoStreams", "cut"]


def cut(chunks: Sequence[Chunk], parts: int) -> list[slice]:
    """Up to `parts` consecutive groups of chunks with about equally many tokens, none of them below `ROW_MULTIPLE`."""
    ends = list(itertools.accumulate(chunk.count for chunk in chunks))
    groups, begin, done = [], 0, 0
    for part in range(1, parts):
        goal = ends[-1] * part // parts
        end = next((i for i in range(begin, len(ends)) if ends[i] >= max(goal, done + ROW_MULTIPLE)), len(ends) - 1) + 1
        if ends[-1] - ends[end - 1] < ROW_MULTIPLE:
            break
        groups.append(slice(begin, end))
        begin, done = end, ends[end - 1]
    return [*groups, slice(begin, len(chunks))]


class NanoStreams:
    """Two CUDA streams for the parts of a step; on another device they run in turn. Not run on a GPU yet."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        if device.type == "cuda":
            self._streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]

    def each(self, parts: int) -> Iterator[int]:
        """Part numbers, each with its stream current; the caller's stream then waits for all of them."""
        if parts == 1 or not self._streams:
            yield from range(parts)
            return
        own = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            stream.wait_stream(own)
        for part in range(parts):
            with torch.cuda.stream(self._streams[part % len(self._streams)]):
                yield part
        for stream in self._streams:
            own.wait_stream(stream)

    def hand_over(self, tensors: Sequence[torch.Tensor]) -> None:
        """Results of parts are going to be read on the caller's stream: their memory must not be reused before."""
        if self._streams:
            for tensor in tensors:
                tensor.record_stream(torch.cuda.current_stream(self._device))
