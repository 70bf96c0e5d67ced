"""From when to when a CUDA device computes a step, by two events on the stream. Not run on a GPU yet.

Queuing a step takes the host far less time than the device needs for it: a clock beside the queuing thread would tell
the one and not the other.
"""

from __future__ import annotations

import torch

__all__ = ["DeviceSpan"]


class DeviceSpan:
    """Begins behind what is queued on the current stream of `device`, and ends where `end` is called."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        # Blocking: who waits sleeps, instead of taking a core from the thread that queues the next step.
        self._begun = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        self._ended = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        self._begun.record(self._stream)

    def end(self) -> DeviceSpan:
        self._ended.record(self._stream)
        return self

    def wait(self) -> float:
        """Wait until the device has come to the end. Returns the seconds it took since the beginning.

        Raises `RuntimeError` where a kernel before it failed.
        """
        self._ended.synchronize()
        return float(self._begun.elapsed_time(self._ended)) / 1e3
