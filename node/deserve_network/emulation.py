"""An internet line as arithmetic: when does a frame that enters now come out at the far end?

Pure, with an explicit clock; `outlet` applies it to real frames. A line serialises at its bandwidth, then every frame
travels on its own for the latency plus a random jitter; it never overtakes the one before. Loss and congestion are not
modelled: that is what the network-namespace emulator is for.
"""

from __future__ import annotations

import random

from deserve_network.control_messages import LinkShape

__all__ = ["Line"]


class Line:
    """One direction of one link. `direction` keeps the two apart where both are built from one seed."""

    def __init__(self, shape: LinkShape, direction: str = "") -> None:
        if min(shape.latency_ms, shape.jitter_ms, shape.mbit) < 0:
            raise ValueError(f"a link shape cannot be negative: {shape}")
        self.is_zero = not (shape.latency_ms or shape.jitter_ms or shape.mbit)
        self.free_at = 0.0
        """When the line takes its next frame, seconds."""
        self._latency_s = shape.latency_ms / 1e3
        self._jitter_s = shape.jitter_ms / 1e3
        self._bytes_per_s = shape.mbit * 1e6 / 8
        self._random = random.Random(f"{shape.seed}/{direction}")
        self._last_arrival = 0.0

    def enter(self, now: float, nbytes: int) -> float:
        """Arrival time of a frame of `nbytes` offered at `now` (seconds, a clock that does not go back)."""
        start = max(now, self.free_at)
        self.free_at = start + (nbytes / self._bytes_per_s if self._bytes_per_s else 0.0)
        # Uniform in [-jitter, +jitter], as `tc netem` draws it by default.
        swing = self._random.uniform(-self._jitter_s, self._jitter_s) if self._jitter_s else 0.0
        self._last_arrival = max(self._last_arrival, self.free_at, self.free_at + self._latency_s + swing)
        return self._last_arrival
