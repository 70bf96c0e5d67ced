"""Pages between the tensors of many layers and a staging buffer on the same CUDA device, in Triton: one launch.

Between staging buffer and host memory whole pages then travel as long contiguous copies. Imported only where tensors
are on CUDA and triton is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deserve_kernels.copies import page_sizes
from deserve_kernels.errors import ArgumentError

__all__ = ["StagedPages"]

_WORDS: dict[int, Any] = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}
_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _copy(  # type: ignore[no-untyped-def]
    addresses,
    sizes,
    offsets,
    staging,
    slots,
    page_words,
    WORD: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    INWARD: tl.constexpr,  # noqa: N803
):
    page = tl.program_id(0).to(tl.int64)
    tensor = tl.program_id(1)
    size = tl.load(sizes + tensor)
    slot = tl.load(slots + page)
    layer = tl.load(addresses + tensor).to(tl.pointer_type(WORD)) + slot * size
    staged = staging.to(tl.pointer_type(WORD)) + page * page_words + tl.load(offsets + tensor)
    for start in range(0, size, BLOCK):
        word = start + tl.arange(0, BLOCK)
        inside = word < size
        if INWARD:
            tl.store(layer + word, tl.load(staged + word, mask=inside), mask=inside)
        else:
            tl.store(staged + word, tl.load(layer + word, mask=inside), mask=inside)


class StagedPages:
    """The page tensors [P, ...] of one pool's layers, contiguous and on one device, as copies see them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        if len({tensor.shape[0] for tensor in tensors}) != 1 or not all(t.is_contiguous() for t in tensors):
            raise ArgumentError("tensors: contiguous ones of equally many pages are expected")
        sizes = page_sizes(tensors)
        self.page_bytes = sum(sizes)
        self._tensors = tuple(tensors)
        self._word = math.gcd(8, *sizes)
        words = torch.tensor(sizes) // self._word
        device = tensors[0].device
        self._sizes = words.to(device)
        self._offsets = (words.cumsum(0) - words).to(device)
        self._addresses = torch.tensor([tensor.data_ptr() for tensor in tensors]).to(device)

    def copy(self, staging: Tensor, slots: Tensor, *, inward: bool) -> None:
        """Copies page `slots[i]` of every tensor to row i of `staging`, or back where `inward`; never waits.

        staging uint8 [>= n, page_bytes], contiguous; slots int64 [n], on the tensors' device and within the pages.
        """
        if staging.dtype != torch.uint8 or staging.shape[1] != self.page_bytes or staging.shape[0] < slots.shape[0]:
            raise ArgumentError(f"staging: {staging.dtype} {tuple(staging.shape)} does not hold {len(slots)} pages")
        grid: Any = (slots.shape[0], len(self._tensors))
        _copy[grid](
            self._addresses,
            self._sizes,
            self._offsets,
            staging,
            slots,
            self.page_bytes // self._word,
            WORD=_WORDS[self._word],
            BLOCK=_BLOCK,
            INWARD=inward,
        )
