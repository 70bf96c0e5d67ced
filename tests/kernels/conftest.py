"""Ragged batches over paged keys and values, as the engine would hand them to the kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor


@dataclass
class Batch:
    """Sequences in pages in random order; unused slots hold NaN, so that reading one shows."""

    queries: Tensor
    key_pages: Tensor
    value_pages: Tensor
    page_table: Tensor
    query_start: Tensor
    context: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        tables = {"page_table": self.page_table, "query_start": self.query_start, "context": self.context}
        return tables | {"scale": self.queries.shape[2] ** -0.5} | self.options

    def attend(self, function, **changes) -> Tensor:
        return function(self.queries, self.key_pages, self.value_pages, **(self.arguments | changes))


def make_batch(
    sequences: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    key_dim: int = 16,
    value_dim: int | None = None,
    page_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    padding: int = 0,
    seed: int = 0,
    **options: Any,
) -> Batch:
    """`sequences` are (context, queries); `options` go to the kernel."""
    generator = torch.Generator().manual_seed(seed)
    value_dim = key_dim if value_dim is None else value_dim
    needed = [-(-context // page_tokens) for context, _ in sequences]
    pages = sum(needed) + 2
    key_pages = torch.randn(pages, kv_heads, page_tokens, key_dim, generator=generator)
    value_pages = torch.randn(pages, kv_heads, page_tokens, value_dim, generator=generator)
    order = torch.randperm(pages, generator=generator).tolist()
    table = torch.full((len(sequences), max(needed) + 1), -1, dtype=torch.int32)
    for sequence, (context, _) in enumerate(sequences):
        own = [order.pop() for _ in range(needed[sequence])]
        table[sequence, : len(own)] = torch.tensor(own, dtype=torch.int32)
        filled = context - (len(own) - 1) * page_tokens
        key_pages[own[-1], :, filled:] = torch.nan
        value_pages[own[-1], :, filled:] = torch.nan
    for unused in order:
        key_pages[unused] = value_pages[unused] = torch.nan
    counts = torch.tensor([0] + [count for _, count in sequences])
    queries = torch.randn(int(counts.sum()) + padding, heads, key_dim, generator=generator)
    return Batch(
        queries,
        key_pages.to(dtype),
        value_pages.to(dtype),
        table,
        counts.cumsum(0).to(torch.int32),
        torch.tensor([context for context, _ in sequences], dtype=torch.int32),
        options,
    )


@pytest.fixture(scope="session")
def batch_of():
    return make_batch
