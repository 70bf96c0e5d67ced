"""The KV of one stage: page tensors for its layers, grouped into pools, sized to the memory lent.

Layout is [page, kv_head, slot, dim] so that one head's page is one contiguous block for the attention kernel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS, PagePool, PageTable, PoolShape, live_pages
from deserve_node.errors import NodeError
from deserve_node.shard import KvLayer

__all__ = ["KvCache", "KvMemoryError"]

REFERENCE_TOKENS = 1024
REFERENCE_CHUNK = 64
"""The row by which memory is divided between pools of different windows, and the chunk in which it is fed."""


class KvMemoryError(NodeError):
    """The memory left for KV does not hold one page a layer."""


class KvCache:
    """Pages of `page_tokens` tokens for `layers`, at most `kv_bytes` of them on the device.

    Where `host_bytes` of host memory hold more pages than the device, its shapes say so; the pages themselves are the
    business of a `Ledger` and a mover. Raises `KvMemoryError` where not even one row fits.
    """

    def __init__(
        self,
        layers: Sequence[KvLayer],
        *,
        kv_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
        page_tokens: int = DEFAULT_PAGE_TOKENS,
        host_bytes: int = 0,
    ) -> None:
        kinds = sorted({(layer.window, layer.chunk) for layer in layers})
        members = {kind: [layer for layer in layers if (layer.window, layer.chunk) == kind] for kind in kinds}
        page_bytes = {kind: sum(_page_bytes(layer, page_tokens, dtype) for layer in members[kind]) for kind in kinds}
        chunk_start = REFERENCE_TOKENS - REFERENCE_CHUNK
        row_pages = {kind: len(live_pages(chunk_start, REFERENCE_CHUNK, *kind, page_tokens)) for kind in kinds}
        row_bytes = max(1, sum(page_bytes[kind] * row_pages[kind] for kind in kinds))
        pages = {kind: int(kv_bytes / row_bytes * row_pages[kind]) for kind in kinds}
        places = {kind: int(host_bytes / row_bytes * row_pages[kind]) for kind in kinds}
        if layers and min(pages.values()) < 1:
            raise KvMemoryError(
                f"{kv_bytes} bytes for KV hold no page of {page_tokens} tokens over {len(layers)} layers "
                f"({sum(page_bytes.values())} bytes): lend more memory"
            )
        self.device = device
        self.page_tokens = page_tokens
        self.page_bytes = sum(page_bytes.values())
        """Of one page of every pool together."""
        # Every page has a place in host memory, those on the device too: see `pool_ledger`.
        self.shapes = tuple(
            PoolShape(*kind, pages[kind], max(0, places[kind] - pages[kind]), page_tokens) for kind in kinds
        )
        self.pool_bytes = tuple(page_bytes[kind] for kind in kinds)
        """Of one page of each pool."""
        self._pools = tuple(PagePool(dataclasses.replace(shape, host_pages=0)) for shape in self.shapes)
        self.pool_of = {layer.layer: kinds.index((layer.window, layer.chunk)) for layer in layers}
        self._pages = {
            layer.layer: tuple(
                _zeros((pages[(layer.window, layer.chunk)], layer.kv_heads, page_tokens, dim), dtype, device)
                for dim in (layer.key_dim, layer.value_dim)
            )
            for layer in layers
        }

    @property
    def pages_used(self) -> int:
        """Pages that `place` has given away."""
        return sum(pool.used for pool in self._pools)

    def place(self, chunks: Sequence[Chunk]) -> list[PageTable]:
        """Device pages for the next step of a stage that has no ledger. Raises `OutOfPagesError`.

        All pools give back what slid out of their windows before any takes new pages: the head counts on that order.
        """
        for pool in self._pools:
            for c in chunks:
                pool.shrink(c.sequence, c.start)
        for pool in self._pools:
            for c in chunks:
                pool.grow(c.sequence, c.start + c.count)
        sequences = [c.sequence for c in chunks]
        return [pool.tables(sequences) for pool in self._pools]

    def release(self, sequence: int) -> None:
        """Give back what `place` gave a sequence; one that holds nothing is no error."""
        for pool in self._pools:
            pool.release(sequence)

    def tensors(self, pool: int) -> list[torch.Tensor]:
        """Key and value pages of a pool's layers, in the order in which a page in host memory holds them."""
        layers = sorted(layer for layer, own in self.pool_of.items() if own == pool)
        return [tensor for layer in layers for tensor in self._pages[layer]]

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Key pages [P, KVH, page_tokens, Dk] and value pages [P, KVH, page_tokens, Dv] of a layer."""
        keys, values = self._pages[layer]
        return keys, values


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because a page's unwritten slots may be read under a zero weight, and 0 * NaN is NaN.

    On the CPU they come from the system's zero pages, which take memory only when written; `torch.zeros` writes all.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def _page_bytes(layer: KvLayer, page_tokens: int, dtype: torch.dtype) -> int:
    return page_tokens * layer.kv_heads * (layer.key_dim + layer.value_dim) * dtype.itemsize
