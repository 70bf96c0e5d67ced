"""How many processor cores this process has."""

from __future__ import annotations

import os

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """Those it may run on, which in a container or a cpuset are fewer than the machine has; where the system does not
    say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
