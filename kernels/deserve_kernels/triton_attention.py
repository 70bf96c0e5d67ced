"""Attention over pages on CUDA, in Triton. Imported only where tensors are on CUDA and triton is installed.

A program serves a tile of one sequence's queries and one kv head; its rows are the tile's queries times the query heads
of that kv head, as in the C++ kernel. It makes no promise about bits, and does not split a decode over pages.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["paged_attention"]


@triton.jit(do_not_specialize=["sequences", "window", "chunk"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    queries,
    key_pages,
    value_pages,
    page_table,
    query_start,
    context,
    sinks,
    out,
    query_token_stride,
    query_head_stride,
    sequences,
    max_pages,
    kv_heads,
    page_tokens,
    window,
    chunk,
    scale,
    softcap,
    KEY_DIM: tl.constexpr,  # noqa: N803
    VALUE_DIM: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    HAS_SINKS: tl.constexpr,  # noqa: N803
    HAS_SOFTCAP: tl.constexpr,  # noqa: N803
):
    # Sequence s has its first tile at query_start[s] // TILE + s or later: search for this program's sequence there.
    program = tl.program_id(0)
    kv_head = tl.program_id(1)
    below = tl.full([], 0, tl.int32)
    above = tl.full([], 0, tl.int32) + sequences
    while above - below > 1:
        middle = (below + above) // 2
        if tl.load(query_start + middle) // TILE + middle <= program:
            below = middle
        else:
            above = middle
    begin = tl.load(query_start + below)
    count = tl.load(query_start + below + 1) - begin
    first = (program - begin // TILE - below) * TILE
    if first >= count:
        return
    length = tl.load(context + below)

    rows = tl.arange(0, ROWS)
    query = first + rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    real = (rows < TILE * GROUP) & (query < count)
    position = length - count + query
    lowest = tl.where(window > 0, tl.maximum(position - window + 1, 0), 0)
    lowest = tl.maximum(lowest, tl.where(chunk > 0, position // tl.maximum(chunk, 1) * chunk, 0))

    key_lanes = tl.arange(0, KEY_WIDTH)
    value_lanes = tl.arange(0, VALUE_WIDTH)
    token = (begin + query).to(tl.int64)
    q = tl.load(
        queries + (token * query_token_stride + head * query_head_stride)[:, None] + key_lanes[None, :],
        mask=real[:, None] & (key_lanes < KEY_DIM)[None, :],
        other=0.0,
    )
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if HAS_SINKS:
        peak = tl.load(sinks + head, mask=real, other=0.0)
        total = total + 1.0
    summed = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)

    start = tl.min(tl.where(real, lowest, length)) // KEYS * KEYS
    stop = tl.max(tl.where(real, position + 1, 0))
    for block in range(start, stop, KEYS):
        key = block + tl.arange(0, KEYS)
        seen = (key[None, :] >= lowest[:, None]) & (key[None, :] <= position[:, None]) & real[:, None]
        needed = tl.max(seen.to(tl.int32), 0) > 0
        page = tl.load(page_table + tl.cast(below, tl.int64) * max_pages + key // page_tokens, mask=needed, other=0)
        slot = (page.to(tl.int64) * kv_heads + kv_head) * page_tokens + key % page_tokens
        k = tl.load(
            key_pages + slot[:, None] * KEY_DIM + key_lanes[None, :],
            mask=needed[:, None] & (key_lanes < KEY_DIM)[None, :],
            other=0.0,
        )
        scores = tl.dot(q.to(k.dtype), tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap * (1.0 - 2.0 / (tl.exp(scores * (2.0 / softcap)) + 1.0))
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen nothing yet has no peak, and -inf minus -inf is no number.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp(peak - reference)
        weights = tl.exp(scores - reference[:, None])
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            value_pages + slot[:, None] * VALUE_DIM + value_lanes[None, :],
            mask=needed[:, None] & (value_lanes < VALUE_DIM)[None, :],
            other=0.0,
        )
        summed = summed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        peak = higher
    summed = summed / tl.where(real, total, 1.0)[:, None]
    tl.store(
        out + (token * kv_heads * GROUP + head)[:, None] * VALUE_DIM + value_lanes[None, :],
        summed.to(out.dtype.element_ty),
        mask=real[:, None] & (value_lanes < VALUE_DIM)[None, :],
    )


def paged_attention(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    *,
    page_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    scale: float,
    window: int = 0,
    chunk: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `deserve_kernels.attention.paged_attention`; never waits for the device."""
    tokens, heads, key_dim = queries.shape
    _, kv_heads, page_tokens, value_dim = value_pages.shape
    group = heads // kv_heads
    decode = tokens <= context.shape[0]
    rows = max(16 if decode else 64, triton.next_power_of_2(group))
    tile = rows // group
    out = torch.zeros(tokens, heads, value_dim, dtype=queries.dtype, device=queries.device)
    if queries.stride(2) != 1:
        queries = queries.contiguous()
    grid: Any = (tokens // tile + context.shape[0], kv_heads)
    _attend[grid](
        queries,
        key_pages,
        value_pages,
        page_table.contiguous(),
        query_start.contiguous(),
        context.contiguous(),
        sinks.float().contiguous() if sinks is not None else queries,
        out,
        queries.stride(0),
        queries.stride(1),
        context.shape[0],
        page_table.shape[1],
        kv_heads,
        page_tokens,
        window,
        chunk,
        scale,
        softcap,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        KEY_WIDTH=max(16, triton.next_power_of_2(key_dim)),
        VALUE_WIDTH=max(16, triton.next_power_of_2(value_dim)),
        GROUP=group,
        TILE=tile,
        ROWS=rows,
        KEYS=32,
        HAS_SINKS=sinks is not None,
        HAS_SOFTCAP=softcap > 0,
    )
    return out
