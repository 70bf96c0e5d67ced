"""How much memory KV may take, on the device and beside it, and in pages of what size."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_PAGE_TOKENS", "KvLimits"]

DEFAULT_PAGE_TOKENS = 16
"""Tokens a page holds. Long enough for whole vector loads, short enough that the last page wastes little."""


@dataclass(frozen=True, slots=True)
class KvLimits:
    """`device_bytes` 0: all that the weights leave; `host_bytes` 0: nothing is swapped; `copy_bytes_per_s` bounds
    copies between the two, each way, 0: as fast as they go."""

    page_tokens: int = DEFAULT_PAGE_TOKENS
    device_bytes: int = 0
    host_bytes: int = 0
    copy_bytes_per_s: int = 0
