"""What a node tells of itself: memory, cores, and times measured on its own device rather than looked up.

A time is the best of a few: neighbours on the same machine only ever make it longer.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["machine_id", "measure_layer_time", "speed_class", "total_memory_bytes"]

LEAST_REPEATS = 5
WINDOW_S = 0.5
"""A time is taken again for this long: neighbours that compute in bursts leave a quiet moment in it."""


def machine_id() -> str:
    """Equal for processes on one machine, meaningless elsewhere: a hash, so that it names nobody's hardware."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = boot.read_text() if boot.exists() else f"{os.uname()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def speed_class(device: torch.device) -> str:
    """Equal for nodes of one machine that compute on the same kind of device with as many threads."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return hashlib.sha256(f"{machine_id()} {kind}".encode()).hexdigest()[:32]


def total_memory_bytes(device: torch.device) -> int:
    """Memory of the device, or of the machine for the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@torch.inference_mode()
def measure_layer_time(layer_bytes: int, hidden: int, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds for 64 tokens through a matrix product with as many weights as one decoder layer has.

    Known before any weight is fetched, and what decode time is made of: such a step reads each weight once.
    """
    width = max(1, layer_bytes // dtype.itemsize // hidden)
    weight = torch.rand(width, hidden, dtype=dtype, device=device)
    tokens = torch.rand(64, hidden, dtype=dtype, device=device)
    return _best_s(lambda: torch.nn.functional.linear(tokens, weight), device)


def _best_s(run: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    while len(times) <= LEAST_REPEATS or sum(times) < WINDOW_S:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
