"""The int8 codec's packing on CUDA, in Triton. Imported only where tensors are on CUDA and triton is installed.

A program packs one token. Its bytes are those of `layout`, which is why the launch forbids fused operations: adding
`_ROUNDER` and taking it away rounds half to even only if the product before it was rounded by itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
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

__all__ = ["pack_int8"]


@triton.jit
def _bf16_of(bits):  # type: ignore[no-untyped-def]
    magnitude = bits & 0x7FFFFFFF
    finite = tl.minimum(magnitude, 0x7F800000)
    rounded = tl.minimum((finite + 0x7FFF + ((finite >> 16) & 1)) >> 16, 0x7F7F)
    rounded = tl.where(magnitude == 0x7F800000, 0x7F80, rounded) | ((bits >> 16) & 0x8000)
    return tl.where(magnitude > 0x7F800000, 0x7FC0, rounded)


@triton.jit  # type: ignore[untyped-decorator]
def _pack(  # type: ignore[no-untyped-def]
    hidden,
    halves,
    octets,
    width,
    groups,
    record_bytes,
    inverse_127,
    rounder,
    GROUP: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    OUTLIERS: tl.constexpr,  # noqa: N803
    OUTLIER_BYTES: tl.constexpr,  # noqa: N803
    MIN_PEAK_BITS: tl.constexpr,  # noqa: N803
    MAX_SCALE_BITS: tl.constexpr,  # noqa: N803
):
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    values = tl.load(hidden + token * width + lane, mask=lane < width, other=0.0).to(tl.float32)
    halves += token * (record_bytes // 2)
    octets += token * record_bytes + OUTLIER_BYTES + 2 * groups

    taken = lane < 0
    for place in tl.static_range(OUTLIERS):
        bits = values.to(tl.int32, bitcast=True)
        # Unique keys: by magnitude, the lower index first where equal. Lanes already chosen come last.
        key = ((bits & 0x7FFFFFFF).to(tl.int64) << 17) | (WIDTH - 1 - lane)
        key = tl.where(taken, -1, key)
        chosen = WIDTH - 1 - (tl.max(key, 0) & 0x1FFFF).to(tl.int32)
        here = lane == chosen
        outlier = _bf16_of(tl.sum(tl.where(here, bits, 0), 0))
        tl.store(halves + 2 * place, chosen.to(tl.int16))
        tl.store(halves + 2 * place + 1, outlier.to(tl.int16))
        taken = taken | here
    values = tl.where(taken, 0.0, values)

    grouped = tl.reshape(values, [WIDTH // GROUP, GROUP])
    peak = tl.max(grouped.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)
    scale = tl.minimum(
        _bf16_of((peak.to(tl.float32, bitcast=True) * inverse_127).to(tl.int32, bitcast=True)), MAX_SCALE_BITS
    )
    scale = tl.where(peak < MIN_PEAK_BITS, 0, scale)
    kept = (scale > 0) & (peak < 0x7F800000)
    scale = tl.where(peak < 0x7F800000, scale, 0x7FC0)
    divisor = tl.where(kept, (scale << 16).to(tl.float32, bitcast=True), 1.0)
    inverse = tl.math.div_rn(tl.full([WIDTH // GROUP], 1.0, tl.float32), divisor)
    scaled = tl.where(kept[:, None], grouped * inverse[:, None], 0.0)
    rounded = tl.minimum(tl.maximum((scaled + rounder) - rounder, -127.0), 127.0)

    group = tl.arange(0, WIDTH // GROUP)
    tl.store(halves + OUTLIER_BYTES // 2 + group, scale.to(tl.int16), mask=group < groups)
    place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(octets + place, rounded.to(tl.int32).to(tl.int8), mask=group[:, None] < groups)


_ROUNDER = 12582912.0
"""1.5 * 2^23: fp32 next to it are whole numbers."""


def pack_int8(hidden: Tensor) -> Tensor:
    """[tokens, hidden] -> uint8 [tokens, `int8_bytes(hidden)`]."""
    tokens, width = hidden.shape
    record = int8_bytes(width)
    out = torch.zeros(tokens, record, dtype=torch.uint8, device=hidden.device)
    if tokens and width:
        _pack[(tokens,)](
            hidden.contiguous(),
            out.view(torch.int16),
            out.view(torch.int8),
            width,
            groups(width),
            record,
            1 / 127,
            _ROUNDER,
            GROUP=GROUP,
            WIDTH=max(GROUP, triton.next_power_of_2(width)),
            OUTLIERS=OUTLIERS,
            OUTLIER_BYTES=OUTLIER_BYTES,
            MIN_PEAK_BITS=MIN_PEAK_BITS,
            MAX_SCALE_BITS=MAX_SCALE_BITS,
            enable_fp_fusion=False,
        )
    return out
