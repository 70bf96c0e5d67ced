"""Causal attention of packed ragged queries over paged keys and values.

Checks the arguments and chooses the kernel: C++ on the CPU, Triton on CUDA, the torch reference, after one warning,
where neither is.
The C++ kernel has one reduction order per query, so that a query's bits are the same in a prefill, a chunk or a decode
and in any batch, on any number of threads.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["has_triton", "paged_attention"]

_PAGE_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


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
    """Returns [T, H, Dv] in the queries' dtype; accumulation is fp32.

    queries [T, H, Dk]; key_pages [P, KVH, page_tokens, Dk] and value_pages [P, KVH, page_tokens, Dv] in fp32, bf16 or
    fp16, contiguous, with H a multiple of KVH; page_table int32 [S, max_pages], a sequence's page number -> page id, -1
    where it is freed, which is never read; query_start int32 [S + 1], the first packed query of each sequence;
    context int32 [S], tokens of the sequence in the pages after this step. Query j of sequence s has position
    `context[s] - count[s] + j` and attends to every position up to its own, from `position - window + 1` on where
    `window` is set, and within its aligned stretch of `chunk` tokens where `chunk` is set. `softcap` c > 0 turns a
    score x into c * tanh(x / c) (Gemma 2). sinks [H] is an extra score per head without a value (gpt-oss). Rows after
    `query_start[S]` are padding and come back as zeros.

    Raises `ArgumentError` for arguments that do not fit and, on the CPU, for a needed page that is not in the pool.
    """
    _check(queries, key_pages, value_pages, page_table, query_start, context, sinks)
    attend: Callable[..., Tensor] = reference.paged_attention
    if queries.device.type == "cpu" and native_library() is not None:
        attend = _native
    elif queries.device.type == "cuda" and has_triton():
        from deserve_kernels import triton_attention

        attend = triton_attention.paged_attention
    return attend(
        queries,
        key_pages,
        value_pages,
        page_table=page_table,
        query_start=query_start,
        context=context,
        scale=scale,
        window=window,
        chunk=chunk,
        softcap=softcap,
        sinks=sinks,
    )


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed; if not, one warning says so."""
    if importlib.util.find_spec("triton") is not None:
        return True
    warnings.warn(
        "the slow torch kernels are used: no package 'triton'; pip install triton", RuntimeWarning, stacklevel=3
    )
    return False


def _check(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    page_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    sinks: Tensor | None,
) -> None:
    if queries.ndim != 3 or key_pages.ndim != 4 or value_pages.ndim != 4:
        raise ArgumentError("queries [T, H, Dk] and pages [P, KVH, page_tokens, D] are expected")
    if key_pages.shape[:3] != value_pages.shape[:3] or key_pages.dtype != value_pages.dtype:
        raise ArgumentError("key_pages and value_pages differ in pages, heads, page size or dtype")
    if key_pages.dtype not in _PAGE_TYPES:
        raise ArgumentError(f"pages: {key_pages.dtype} is none of float32, bfloat16, float16")
    if queries.shape[2] != key_pages.shape[3] or queries.shape[1] % key_pages.shape[1]:
        raise ArgumentError(f"queries {tuple(queries.shape)} do not fit key_pages {tuple(key_pages.shape)}")
    if not (key_pages.is_contiguous() and value_pages.is_contiguous()):
        raise ArgumentError("pages are not contiguous")
    for name, table, shape in (
        ("page_table", page_table, (context.shape[0], page_table.shape[-1])),
        ("query_start", query_start, (context.shape[0] + 1,)),
        ("context", context, (context.shape[0],)),
    ):
        if table.dtype != torch.int32 or table.shape != shape:
            raise ArgumentError(f"{name}: {table.dtype} {tuple(table.shape)} where int32 {shape} is expected")
    if sinks is not None and sinks.shape != queries.shape[1:2]:
        raise ArgumentError(f"sinks: shape {tuple(sinks.shape)} where ({queries.shape[1]},) is expected")


def _native(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    *,
    page_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    library = native_library()
    assert library is not None
    exact = queries.float()
    if exact.stride(2) != 1:
        exact = exact.contiguous()
    page_table, query_start, context = page_table.contiguous(), query_start.contiguous(), context.contiguous()
    sinks = None if sinks is None else sinks.float().contiguous()
    packed = int(query_start[-1])
    out = torch.empty(queries.shape[0], queries.shape[1], value_pages.shape[3])
    out[packed:] = 0
    starts, lengths = query_start.tolist(), context.tolist()
    if starts[0] != 0 or packed > queries.shape[0]:
        raise ArgumentError(f"query_start: from {starts[0]} to {packed} for {queries.shape[0]} queries")
    for sequence, length in enumerate(lengths):
        if not 0 <= starts[sequence + 1] - starts[sequence] <= length:
            raise ArgumentError(f"sequence {sequence}: queries {starts[sequence : sequence + 2]} in context {length}")
    failed = library.deserve_paged_attention(
        exact.data_ptr(),
        exact.stride(0),
        exact.stride(1),
        key_pages.data_ptr(),
        value_pages.data_ptr(),
        _PAGE_TYPES[key_pages.dtype],
        page_table.data_ptr(),
        query_start.data_ptr(),
        context.data_ptr(),
        None if sinks is None else sinks.data_ptr(),
        out.data_ptr(),
        context.shape[0],
        page_table.shape[1],
        key_pages.shape[0],
        key_pages.shape[2],
        queries.shape[1],
        key_pages.shape[1],
        key_pages.shape[3],
        value_pages.shape[3],
        window,
        chunk,
        scale,
        softcap,
        torch.get_num_threads(),
    )
    if failed:
        raise ArgumentError("page_table: a needed page is freed or outside the pool")
    return out.to(queries.dtype)
