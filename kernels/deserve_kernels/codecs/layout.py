"""How the int8 codec lays out a token. Every implementation packs exactly this, so their bytes are equal.

    offset        size      content
    0             16        4 outliers: index uint16, value bf16; by magnitude, the lower index first where equal
    16            2 G       scale of each group, bf16
    16 + 2 G      64 G      the values, int8, zeros behind the last

with G = ceil(hidden / 64) groups of 64 values, little-endian. A value is decoded as `int8 * scale`, an outlier as its
bf16. Packing, in fp32 without fused operations:

1. Outliers are the four largest magnitudes of the token, compared as bit patterns without sign. In their groups they
   count as zero.
2. `scale = bf16(peak * fp32(1 / 127))` where `peak` is the group's largest magnitude: rounded half to even, at most
   `MAX_SCALE`, 0 where the peak is below `MIN_PEAK`, NaN where the peak is not finite.
3. `int8 = round_half_to_even(value * (1 / scale))`, within [-127, 127]; 0 where the scale is 0 or NaN.

`bf16` here is rounding half to even that keeps what is finite finite. NaN becomes 0x7fc0.
"""

from __future__ import annotations

__all__ = [
    "GROUP",
    "MAX_HIDDEN",
    "MAX_SCALE_BITS",
    "MIN_PEAK_BITS",
    "OUTLIERS",
    "OUTLIER_BYTES",
    "groups",
    "int8_bytes",
]

GROUP = 64
OUTLIERS = 4
OUTLIER_BYTES = 4 * OUTLIERS
MAX_HIDDEN = 1 << 16
"""What an index of 16 bits reaches."""
MIN_PEAK_BITS = (127 - 100) << 23
"""fp32 2^-100: below it nothing is kept, and no product is subnormal, which some devices flush to zero."""
MAX_SCALE_BITS = 0x7C01
"""bf16 1.0078125 * 2^121, the largest whose product with 127 is finite."""


def groups(hidden: int) -> int:
    return -(-hidden // GROUP)


def int8_bytes(hidden: int) -> int:
    """Bytes of a token."""
    return OUTLIER_BYTES + (2 + GROUP) * groups(hidden)
