"""What a step must move and compute at least, and so the time it cannot go below. Pure.

Counted for a dense decoder in the layout of Llama: every weight of the layers is read once a step, keys and values of
the context once per row, activations not at all (they stay in caches). A multiply-add is two operations (Williams,
Waterman and Patterson, *Roofline*, CACM 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LLAMA_3_8B", "Peaks", "Shape", "Work", "decode_work", "prefill_work"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `value_bytes` are those of a weight and of a cached key or value."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    value_bytes: int = 2

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer: queries, keys, values, output, gate, up and down."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.value_bytes


LLAMA_3_8B = Shape(layers=32, hidden=4096, intermediate=14_336, heads=32, kv_heads=8, head_dim=128, vocabulary=128_256)


@dataclass(frozen=True)
class Work:
    """Bytes read and written in the device's memory, and operations."""

    bytes: int
    operations: int


@dataclass(frozen=True)
class Peaks:
    """What the device was measured to do: bytes a second of a large copy, operations a second of a large product."""

    bytes_per_s: float
    operations_per_s: float

    def least_s(self, work: Work) -> float:
        return max(work.bytes / self.bytes_per_s, work.operations / self.operations_per_s)


def decode_work(shape: Shape, contexts: list[int]) -> Work:
    """One step of rows with these many tokens of context each, the new one included; logits of every row."""
    rows = len(contexts)
    return _work(shape, tokens=rows, wanted=rows, read_tokens=sum(contexts), pairs=sum(contexts))


def prefill_work(shape: Shape, start: int, count: int) -> Work:
    """`count` tokens of one prompt from position `start` on; logits of the last."""
    pairs = count * start + count * (count + 1) // 2
    return _work(shape, tokens=count, wanted=1, read_tokens=start + count, pairs=pairs)


def _work(shape: Shape, *, tokens: int, wanted: int, read_tokens: int, pairs: int) -> Work:
    head = shape.hidden * shape.vocabulary
    weights = shape.layers * shape.layer_weights + head
    moved = weights * shape.value_bytes
    moved += (read_tokens + tokens) * shape.kv_token_bytes  # the new tokens are written as well
    moved += tokens * shape.hidden * shape.value_bytes  # rows of the embedding
    products = 2 * (tokens * shape.layers * shape.layer_weights + wanted * head)
    attention = 4 * pairs * shape.heads * shape.head_dim * shape.layers
    return Work(moved, products + attention)
