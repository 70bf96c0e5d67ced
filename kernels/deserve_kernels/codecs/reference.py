"""The codecs in plain torch, on any device: what the kernels are compared with bit for bit. See `layout`."""

from __future__ import annotations

import torch
from torch import Tensor

from deserve_kernels.codecs.layout import (
    GROUP,
    MAX_SCALE_BITS,
    MIN_PEAK_BITS,
    OUTLIER_BYTES,
    OUTLIERS,
    groups,
    int8_bytes,
)
from deserve_kernels.errors import PayloadError

__all__ = ["narrow", "pack_int8", "round_bf16", "unpack_int8"]

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_BF16_NAN = 0x7FC0


def _bf16_bits(values: Tensor) -> Tensor:
    """int32 of the same shape: bf16 bit patterns of fp32 values, rounded half to even, finite where they are."""
    bits = values.view(torch.int32)
    magnitude = bits & _MAGNITUDE
    finite = magnitude.clamp(max=_INFINITY)
    rounded = ((finite + 0x7FFF + ((finite >> 16) & 1)) >> 16).clamp(max=0x7F7F)
    rounded = torch.where(magnitude == _INFINITY, _INFINITY >> 16, rounded) | ((bits >> 16) & 0x8000)
    return torch.where(magnitude > _INFINITY, _BF16_NAN, rounded)


def _from_bf16_bits(bits: Tensor) -> Tensor:
    return (bits << 16).view(torch.float32)


def round_bf16(hidden: Tensor) -> Tensor:
    """[tokens, hidden] in any floating dtype -> bf16."""
    return _bf16_bits(hidden.float().contiguous()).to(torch.int16).view(torch.bfloat16)


def narrow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 or bf16 values in `dtype`; what is finite stays finite."""
    if dtype is torch.bfloat16 and values.dtype is torch.float32:
        return round_bf16(values)
    if dtype is torch.float16:
        exact = values.float()
        largest = torch.finfo(dtype).max
        return torch.where(exact.isinf(), exact, exact.clamp(-largest, largest)).to(dtype)
    return values.to(dtype)


def pack_int8(hidden: Tensor) -> Tensor:
    """[tokens, hidden] -> uint8 [tokens, `int8_bytes(hidden)`]."""
    tokens, width = hidden.shape
    if not tokens or not width:
        return torch.zeros(tokens, int8_bytes(width), dtype=torch.uint8, device=hidden.device)
    padded = hidden.new_zeros(tokens, GROUP * groups(width), dtype=torch.float32)
    padded[:, :width] = hidden
    index = torch.arange(padded.shape[1], device=hidden.device)
    magnitude = (padded.view(torch.int32) & _MAGNITUDE).long()
    chosen = 0xFFFF - ((magnitude << 16) | (0xFFFF - index)).topk(OUTLIERS, dim=1).values & 0xFFFF
    outliers = torch.stack([chosen.int(), _bf16_bits(padded.gather(1, chosen))], dim=2).to(torch.int16)

    grouped = padded.scatter(1, chosen, 0.0).view(tokens, -1, GROUP)
    peak = (grouped.view(torch.int32) & _MAGNITUDE).amax(dim=2).contiguous()
    scale_bits = _bf16_bits(peak.view(torch.float32) * (1 / 127)).clamp(max=MAX_SCALE_BITS)
    scale_bits = torch.where(peak < MIN_PEAK_BITS, 0, scale_bits)
    kept = (scale_bits > 0) & (peak < _INFINITY)
    scale_bits = torch.where(peak < _INFINITY, scale_bits, _BF16_NAN)
    inverse = torch.where(kept, 1.0 / _from_bf16_bits(scale_bits), 0.0)
    scaled = torch.where(kept[:, :, None], grouped * inverse[:, :, None], 0.0)
    values = scaled.round().clamp(-127, 127).to(torch.int8).view(tokens, -1)
    parts = (outliers.flatten(1), scale_bits.to(torch.int16), values)
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)


def unpack_int8(records: Tensor, width: int) -> Tensor:
    """uint8 [tokens, `int8_bytes(width)`] -> fp32 [tokens, width]. Raises `PayloadError` for an index out of range."""
    tokens, count = records.shape[0], groups(width)
    if not tokens or not width:
        return torch.zeros(tokens, width, device=records.device)
    bounds = OUTLIER_BYTES + 2 * count
    outliers = records[:, :OUTLIER_BYTES].contiguous().view(torch.int16).view(tokens, OUTLIERS, 2).int()
    scales = records[:, OUTLIER_BYTES:bounds].contiguous().view(torch.int16).int()
    values = records[:, bounds:].contiguous().view(torch.int8).view(tokens, count, GROUP)
    index = outliers[:, :, 0].long() & 0xFFFF
    if int(index.max()) >= GROUP * count:
        raise PayloadError(f"int8: outlier at {int(index.max())} of {GROUP * count} values")
    decoded = (values.float() * _from_bf16_bits(scales)[:, :, None]).view(tokens, -1)
    kept = _from_bf16_bits(outliers[:, :, 1].contiguous())
    for place in range(OUTLIERS):  # one by one: where an index is repeated, the last counts everywhere
        decoded.scatter_(1, index[:, place : place + 1], kept[:, place : place + 1])
    return decoded[:, :width].contiguous()
