"""Copies pages between the page tensors of many layers and an arena in host memory, in one call for all of them.

In the arena a page is one contiguous stretch, the parts of its layers in the order of the tensors: a copy to or from a
device moves few long stretches instead of many short ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library

__all__ = ["copy_pages", "page_sizes"]


def page_sizes(tensors: Sequence[Tensor]) -> list[int]:
    """Bytes of one page in each of the tensors [P, ...]."""
    return [tensor[0].numel() * tensor.element_size() for tensor in tensors]


def copy_pages(tensors: Sequence[Tensor], arena: Tensor, slots: Tensor, places: Tensor, *, inward: bool) -> None:
    """Copies page `slots[i]` of every tensor to place `places[i]` of the arena, or back where `inward`.

    tensors [P, ...], contiguous, all on the CPU; arena uint8 [H, sum of `page_sizes`], contiguous; slots and places
    int64 [n]. Releases the interpreter lock. Raises `ArgumentError` for shapes that do not fit and for a slot or a
    place outside, before anything is copied.
    """
    sizes = page_sizes(tensors)
    pages = {tensor.shape[0] for tensor in tensors}
    if len(pages) != 1 or not all(tensor.is_contiguous() for tensor in tensors):
        raise ArgumentError(f"tensors: contiguous ones of equally many pages are expected, not of {sorted(pages)}")
    if arena.dtype != torch.uint8 or arena.ndim != 2 or arena.shape[1] != sum(sizes) or not arena.is_contiguous():
        raise ArgumentError(f"arena: {arena.dtype} {tuple(arena.shape)} where uint8 [places, {sum(sizes)}] is expected")
    if slots.dtype != torch.int64 or places.dtype != torch.int64 or slots.shape != places.shape or slots.ndim != 1:
        raise ArgumentError("slots and places: int64 [pages] each is expected")
    library = native_library()
    if library is None:
        reference.copy_pages(tensors, arena, slots, places, inward=inward)
        return
    addresses = torch.tensor([tensor.data_ptr() for tensor in tensors])
    lengths = torch.tensor(sizes)
    slots, places = slots.contiguous(), places.contiguous()
    failed = library.deserve_copy_pages(
        addresses.data_ptr(),
        lengths.data_ptr(),
        len(tensors),
        pages.pop(),
        arena.data_ptr(),
        arena.shape[0],
        arena.shape[1],
        slots.data_ptr(),
        places.data_ptr(),
        slots.shape[0],
        int(inward),
    )
    if failed:
        raise ArgumentError("slots or places: outside the pages or the arena")
