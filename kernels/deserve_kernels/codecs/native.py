"""The codecs' C++ kernels over CPU tensors. See `layout`."""

from __future__ import annotations

import torch
from torch import Tensor

from deserve_kernels.codecs.layout import GROUP, groups, int8_bytes
from deserve_kernels.errors import PayloadError
from deserve_kernels.library import native_library

__all__ = ["available", "pack_int8", "round_bf16", "unpack_int8"]


def available() -> bool:
    return native_library() is not None


def round_bf16(hidden: Tensor) -> Tensor:
    """[tokens, hidden] in any floating dtype -> bf16."""
    library = native_library()
    assert library is not None
    values = hidden.float().contiguous()
    out = torch.empty(values.shape, dtype=torch.bfloat16)
    library.deserve_round_bf16(values.data_ptr(), out.data_ptr(), values.numel(), torch.get_num_threads())
    return out


def pack_int8(hidden: Tensor) -> Tensor:
    """[tokens, hidden] -> uint8 [tokens, `int8_bytes(hidden)`]."""
    library = native_library()
    assert library is not None
    values = hidden.float().contiguous()
    tokens, width = values.shape
    out = torch.empty(tokens, int8_bytes(width), dtype=torch.uint8)
    library.deserve_pack_int8(values.data_ptr(), out.data_ptr(), tokens, width, torch.get_num_threads())
    return out


def unpack_int8(records: Tensor, width: int) -> Tensor:
    """uint8 [tokens, `int8_bytes(width)`] -> fp32 [tokens, width]. Raises `PayloadError` for an index out of range."""
    library = native_library()
    assert library is not None
    records = records.contiguous()
    out = torch.empty(records.shape[0], width)
    if library.deserve_unpack_int8(
        records.data_ptr(), out.data_ptr(), records.shape[0], width, torch.get_num_threads()
    ):
        raise PayloadError(f"int8: an outlier lies outside {GROUP * groups(width)} values")
    return out
