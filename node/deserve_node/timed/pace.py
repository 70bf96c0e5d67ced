"""The time of a device that is not there: it takes steps one after the other and is done when the profile says.

Like a GPU it starts on a step that waits for it at the moment that the last one ends, however late the thread that
feeds it wakes up. So a machine that is busy with many timed stages delays what they send, but not their devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace", "wait_until"]

SPIN_S = 0.0002
"""A sleep returns up to this late on an idle machine (measured: 0.14 ms in the median); the rest is spun away."""


class Pace:
    """One device. `clock` is in seconds, `wait(deadline)` returns when it shows `deadline`."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, wait: Callable[[float], None] | None = None
    ) -> None:
        self._clock = clock
        self._wait = wait or wait_until
        self._free_at_s = 0.0

    def hold(self, ready_s: float, takes_s: float) -> None:
        """Return when a step is done that could begin at `ready_s`, or after the one before, and takes `takes_s`."""
        self._free_at_s = max(ready_s, self._free_at_s) + takes_s
        self._wait(self._free_at_s)


def wait_until(deadline_s: float) -> None:
    """Return when `time.perf_counter` shows `deadline_s`, at once where it has passed."""
    left_s = deadline_s - time.perf_counter()
    if left_s > SPIN_S:
        time.sleep(left_s - SPIN_S)
    while time.perf_counter() < deadline_s:
        pass
