"""The operations in plain torch, for clarity: what the kernels are tested against, and what runs without a compiler.

Any device, any floating dtype, no speed. One sequence is attended at a time, over gathered pages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from blake3 import blake3
from torch import Tensor

__all__ = [
    "copy_pages",
    "gumbel",
    "gumbel_of",
    "noise_bits",
    "paged_attention",
    "project",
    "rms_norm",
    "rotate",
    "silu_mul",
    "write_kv",
]


def write_kv(key_pages: Tensor, value_pages: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """See `deserve_kernels.pages.write_kv`."""
    page_tokens = key_pages.shape[2]
    page, offset = slots // page_tokens, slots % page_tokens
    key_pages[page, :, offset] = keys.to(key_pages.dtype)
    value_pages[page, :, offset] = values.to(value_pages.dtype)


def copy_pages(tensors: Sequence[Tensor], arena: Tensor, slots: Tensor, places: Tensor, *, inward: bool) -> None:
    """See `deserve_kernels.copies.copy_pages`."""
    end = 0
    for tensor in tensors:
        pages = tensor.view(tensor.shape[0], -1).view(torch.uint8)
        begin, end = end, end + pages.shape[1]
        if inward:
            pages[slots] = arena[places, begin:end]
        else:
            arena[places, begin:end] = pages[slots]


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
    """See `deserve_kernels.attention.paged_attention`."""
    heads, kv_heads = queries.shape[1], key_pages.shape[1]
    out = queries.new_zeros(queries.shape[0], heads, value_pages.shape[3])
    starts = query_start.tolist()
    for sequence, length in enumerate(context.tolist()):
        begin, end = starts[sequence], starts[sequence + 1]
        if begin == end:
            continue
        positions = torch.arange(length - (end - begin), length, device=queries.device)
        lowest = first_keys(positions, window, chunk)
        first_page = int(lowest.min()) // key_pages.shape[2]
        last_page = (length - 1) // key_pages.shape[2]
        pages = page_table[sequence, first_page : last_page + 1].long()
        keys = _gather(key_pages, pages).repeat_interleave(heads // kv_heads, dim=0)
        values = _gather(value_pages, pages).repeat_interleave(heads // kv_heads, dim=0)
        key_positions = first_page * key_pages.shape[2] + torch.arange(keys.shape[1], device=queries.device)

        scores = torch.einsum("qhd,hkd->hqk", queries[begin:end].float(), keys) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        seen = (key_positions >= lowest[:, None]) & (key_positions <= positions[:, None])
        scores = scores.masked_fill(~seen, float("-inf"))
        if sinks is not None:
            scores = torch.cat([scores, sinks.float()[:, None, None].expand(-1, end - begin, 1)], dim=-1)
        weights = scores.softmax(dim=-1)[..., : keys.shape[1]]
        # Slots that no token has filled yet may hold anything, and 0 * inf is not 0.
        values = values.masked_fill(~seen.any(dim=0)[None, :, None], 0.0)
        out[begin:end] = torch.einsum("hqk,hkd->qhd", weights, values).to(out.dtype)
    return out


def first_keys(positions: Tensor, window: int, chunk: int) -> Tensor:
    """The lowest position each of `positions` attends to."""
    lowest = torch.zeros_like(positions)
    if window:
        lowest = (positions - window + 1).clamp(min=0)
    if chunk:
        lowest = torch.maximum(lowest, positions // chunk * chunk)
    return lowest


def _gather(pages: Tensor, chosen: Tensor) -> Tensor:
    """[P, KVH, page_tokens, D] -> fp32 [KVH, len(chosen) * page_tokens, D]."""
    return pages[chosen].float().transpose(0, 1).flatten(1, 2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `deserve_kernels.rowwise.rms_norm`."""
    exact = x.float()
    normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """See `deserve_kernels.rowwise.rotate`."""
    return _turned(q, cos, sin), _turned(k, cos, sin)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """See `deserve_kernels.rowwise.silu_mul`."""
    return torch.nn.functional.silu(gate) * up


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's on int64 carries the sign along."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """splitmix64's finalizer (Steele, Lea, Flood 2014) on int64 that stand for uint64."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def noise_bits(seed: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
    """int64 [R, N] standing for uint64: the hash of each row's seed and position [R] with tokens [R, N] or [N]."""
    key = _mix(_mix(seed + _GOLDEN) + position * _GOLDEN + _GOLDEN)
    return _mix(key[:, None] + (tokens + 1) * _GOLDEN)


def gumbel_of(seed: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
    """See `deserve_kernels.noise.gumbel_of`."""
    fraction = (_shifted(noise_bits(seed, position, tokens), 1).float() + 1.0) * 2.0**-63
    exponential = -torch.log1p(-fraction.clamp(max=1.0 - 2.0**-24))
    return -torch.log(exponential)


def gumbel(seed: Tensor, position: Tensor, vocab: int) -> Tensor:
    """See `deserve_kernels.noise.gumbel`."""
    return gumbel_of(seed, position, torch.arange(vocab, device=seed.device))


def project(hidden: Tensor, seed: bytes) -> Tensor:
    """See `deserve_kernels.fingerprints.project`; in fp64."""
    width = hidden.shape[1]
    drawn = int.from_bytes(blake3(b"deserve-net/fingerprint/signs/1", key=seed).digest(length=width * 2), "little")
    out: Tensor = torch.zeros(hidden.shape[0], 16, dtype=torch.float64, device=hidden.device)
    for index in range(width):
        for column in range(16):
            sign = 1 if drawn >> (index * 16 + column) & 1 else -1
            out[:, column] += sign * hidden[:, index].double()
    return out.div(width**0.5).float()
