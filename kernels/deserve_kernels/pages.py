"""Writes new keys and values into their pages. Which slot a token has is the caller's business."""

from __future__ import annotations

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["write_kv"]


def write_kv(key_pages: Tensor, value_pages: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Stores token t's vectors at slot `slots[t]` = page * page_tokens + offset.

    key_pages [P, KVH, page_tokens, Dk] and value_pages [P, KVH, page_tokens, Dv], contiguous, fp32, bf16 or fp16;
    keys [T, KVH, Dk] and values [T, KVH, Dv], converted to the pages' dtype; slots int64 [T].
    Raises `ArgumentError` for shapes that do not fit and, on the CPU, for a slot outside the pages.
    """
    for name, pages, rows in (("keys", key_pages, keys), ("values", value_pages, values)):
        expected = (slots.shape[0], pages.shape[1], pages.shape[3])
        if rows.shape != expected:
            raise ArgumentError(f"{name}: shape {tuple(rows.shape)} where {expected} is expected")
        if not pages.is_contiguous():
            raise ArgumentError(f"pages of {name} are not contiguous")
    if slots.dtype != torch.int64:
        raise ArgumentError(f"slots: {slots.dtype} where int64 is expected")
    library = native_library() if key_pages.device.type == "cpu" else None
    if library is None:
        reference.write_kv(key_pages, value_pages, keys, values, slots)
        return
    slots = slots.contiguous()
    for pages, rows in ((key_pages, keys), (value_pages, values)):
        rows = rows.to(pages.dtype)
        if rows.stride(2) != 1:
            rows = rows.contiguous()
        size = pages.element_size()
        failed = library.deserve_write_pages(
            pages.data_ptr(),
            rows.data_ptr(),
            slots.data_ptr(),
            rows.shape[0],
            pages.shape[1],
            pages.shape[2],
            pages.shape[0] * pages.shape[2],
            pages.shape[3] * size,
            rows.stride(0) * size,
            rows.stride(1) * size,
        )
        if failed:
            raise ArgumentError(f"slots: outside the {pages.shape[0]} pages of {pages.shape[2]} tokens")
