"""Paged attention against SDPA and the torch reference: `python tests/benchmarks/attention.py [--threads N]`.

Prints, per shape, the kernel's median time, what it reads of the KV per second, its arithmetic rate, and how many times
as long the others take in the same interleaved run. SDPA gets what the kernel does without: keys and values already
gathered, padded to the longest sequence in a decode, contiguous per sequence in a prefill.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from deserve_kernels import paged_attention, reference

PAGE_TOKENS = 16


@dataclass(frozen=True)
class Shape:
    name: str
    sequences: list[tuple[int, int]]
    """(context, queries)"""
    heads: int = 8
    kv_heads: int = 4
    dim: int = 64
    dtype: torch.dtype = torch.float32


def ragged(rows: int, shortest: int, longest: int) -> list[tuple[int, int]]:
    lengths = random.Random(0)
    return [(lengths.randint(shortest, longest), 1) for _ in range(rows)]


SHAPES = [
    Shape("decode 64 x 80-192", ragged(64, 80, 192)),
    Shape("decode 64 x 80-192 bf16", ragged(64, 80, 192), dtype=torch.bfloat16),
    Shape("decode 64 x 16-1000", ragged(64, 16, 1000)),
    Shape("decode 64 x 80-192, 9/3 heads", ragged(64, 80, 192), heads=9, kv_heads=3),
    Shape("decode 16 x 4000, 32/8 dim 128", [(4000, 1)] * 16, heads=32, kv_heads=8, dim=128),
    Shape("prefill 4 x 256", [(256, 256)] * 4),
    Shape("prefill 1 x 2048", [(2048, 2048)]),
    Shape("chunk 128 of 2048, dim 128", [(2048, 128)], heads=16, kv_heads=4, dim=128),
]


class Case:
    """Tensors of one shape, in pages and gathered."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)
        pages_of = [-(-context // PAGE_TOKENS) for context, _ in shape.sequences]
        page_shape = (sum(pages_of), shape.kv_heads, PAGE_TOKENS, shape.dim)
        self.shape = shape
        self.key_pages = torch.randn(page_shape, generator=generator).to(shape.dtype)
        self.value_pages = torch.randn(page_shape, generator=generator).to(shape.dtype)
        order = torch.randperm(sum(pages_of), generator=generator).split(pages_of)
        table = torch.full((len(pages_of), max(pages_of)), -1, dtype=torch.int32)
        for row, pages in zip(table, order, strict=True):
            row[: len(pages)] = pages
        counts = torch.tensor([0] + [count for _, count in shape.sequences])
        self.tables = {
            "page_table": table,
            "query_start": counts.cumsum(0).to(torch.int32),
            "context": torch.tensor([context for context, _ in shape.sequences], dtype=torch.int32),
        }
        self.queries = torch.randn(int(counts.sum()), shape.heads, shape.dim, generator=generator).to(shape.dtype)
        self.gathered = [
            tuple(p[own].transpose(0, 1).flatten(1, 2)[:, :context] for p in (self.key_pages, self.value_pages))
            for own, (context, _) in zip(order, shape.sequences, strict=True)
        ]
        longest = max(context for context, _ in shape.sequences)
        self.padded = [
            torch.stack([F.pad(kv[i], (0, 0, 0, longest - kv[i].shape[1])) for kv in self.gathered]) for i in (0, 1)
        ]
        self.mask = (torch.arange(longest) < self.tables["context"][:, None])[:, None, None, :]
        self.starts = self.tables["query_start"].tolist()

    def kernel(self) -> Tensor:
        return paged_attention(
            self.queries, self.key_pages, self.value_pages, **self.tables, scale=self.shape.dim**-0.5
        )

    def reference(self) -> Tensor:
        return reference.paged_attention(
            self.queries, self.key_pages, self.value_pages, **self.tables, scale=self.shape.dim**-0.5
        )

    def sdpa(self) -> Tensor:
        if all(count == 1 for _, count in self.shape.sequences):
            queries = self.queries[:, :, None]
            out = F.scaled_dot_product_attention(queries, *self.padded, attn_mask=self.mask, enable_gqa=True)
            return out[:, :, 0]
        parts = []
        for sequence, (context, count) in enumerate(self.shape.sequences):
            queries = self.queries[self.starts[sequence] : self.starts[sequence + 1]].transpose(0, 1)[None]
            keys, values = (kv[None] for kv in self.gathered[sequence])
            mask = None if count == context else torch.ones(count, context, dtype=torch.bool).tril(context - count)
            out = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    @property
    def kv_bytes(self) -> int:
        tokens = sum(context for context, _ in self.shape.sequences)
        return 2 * tokens * self.shape.kv_heads * self.shape.dim * self.key_pages.element_size()

    @property
    def operations(self) -> int:
        pairs = sum(count * (2 * context - count + 1) // 2 for context, count in self.shape.sequences)
        return 4 * pairs * self.shape.heads * self.shape.dim


def timed(call: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads; medians of one interleaved run; the last two columns are multiples of the first")
    print(f"{'shape':32}{'kernel ms':>10}{'GB/s':>8}{'GFLOP/s':>9}{'SDPA':>8}{'reference':>11}")
    for shape in SHAPES:
        case = Case(shape)
        calls = {"kernel": case.kernel, "SDPA": case.sdpa, "reference": case.reference}
        spread = 2e-5 if shape.dtype == torch.float32 else 2e-2
        for name in ("SDPA", "reference"):
            torch.testing.assert_close(calls[name](), case.kernel(), rtol=spread, atol=spread)
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end or len(times["kernel"]) < 3:
            for name, call in calls.items():
                times[name].append(timed(call))
        median = {name: statistics.median(taken) for name, taken in times.items()}
        kernel = median["kernel"]
        bandwidth, arithmetic = case.kv_bytes / kernel / 1e9, case.operations / kernel / 1e9
        print(
            f"{shape.name:32}{kernel * 1e3:10.2f}{bandwidth:8.1f}{arithmetic:9.1f}"
            f"{median['SDPA'] / kernel:8.2f}{median['reference'] / kernel:11.2f}"
        )


if __name__ == "__main__":
    main()
