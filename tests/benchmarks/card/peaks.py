"""What the device really does: bandwidth of a copy, operations of a matrix product, both too large for its caches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from card.roofline import Peaks

__all__ = ["device_seconds", "measure_peaks"]

_COPIED_BYTES = 4 << 30
_SIDE = 8_192
_WARM, _RUNS = 3, 10


def device_seconds(call: Callable[[], object], device: torch.device, runs: int = _RUNS) -> float:
    """The best of several runs, by the device's own clock where it has one: what else happens only adds."""
    for _ in range(_WARM):
        call()
    best = float("inf")
    for _ in range(runs):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - started)
    return best


def measure_peaks(device: torch.device, dtype: torch.dtype, *, copied: int = _COPIED_BYTES, side: int = _SIDE) -> Peaks:
    """Copy `copied` bytes (which reads and writes each) and multiply two [side, side] matrices of `dtype`."""
    bytes_per_s = 2 * copied / _copy_s(copied, device)
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    operations_per_s = 2 * side**3 / device_seconds(lambda: left @ right, device)
    return Peaks(bytes_per_s, operations_per_s)


def _copy_s(nbytes: int, device: torch.device) -> float:
    source = torch.empty(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return device_seconds(lambda: target.copy_(source), device)
