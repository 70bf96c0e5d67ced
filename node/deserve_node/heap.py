"""Memory that a step frees stays with the process for the next one.

A step of a thousand rows allocates and frees tens of megabytes again and again. By default glibc maps blocks of that
size anew each time, and gives freed memory at the end of a heap back: a step of 1,000 rows on two cores then spends a
sixth of its time on page faults (`mallopt(3)`; the allocators that other engines preload do the same).
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""malloc.h"""
MOST = 2**31 - 1
LARGEST_BLOCK = 1 << 30
"""Bytes; what is larger (KV, weights) is mapped as before."""


def keep_freed_memory() -> None:
    """Call before threads begin: heaps of other threads than the first cannot hold large blocks. Does nothing where the
    C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
