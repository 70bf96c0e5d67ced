"""What a token's hidden state takes on a link under each wire codec. Pure; `deserve_kernels` packs them."""

from __future__ import annotations

__all__ = ["CODECS", "token_bytes"]

CODECS = ("raw", "bf16", "int8")
GROUP = 64
"""Values that share a scale of 16 bits in `int8`; the last group is filled up."""
OUTLIERS = 4
"""Values a token that `int8` keeps in bf16, each with a 16-bit index."""


def token_bytes(codec: str, hidden: int, value_bytes: int) -> int:
    """Bytes of `hidden` values that are `value_bytes` wide uncoded. Raises `ValueError` for a codec not in `CODECS`."""
    if codec == "raw":
        return hidden * value_bytes
    if codec == "bf16":
        return 2 * hidden
    if codec == "int8":
        return (GROUP + 2) * -(-hidden // GROUP) + 4 * OUTLIERS
    raise ValueError(f"codec {codec!r} is not one of {', '.join(CODECS)}")
