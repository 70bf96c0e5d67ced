"""Whether this node may go on computing: what the thread that computes waits at, and what opens and shuts it."""

from __future__ import annotations

import threading

__all__ = ["Clearance"]


class Clearance:
    """Open at first. `wait` may be called in any thread, the others in the event loop's or the wallet's."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._dismissed = False

    def set(self, open_: bool) -> None:
        if open_ or self._dismissed:
            self._open.set()
        else:
            self._open.clear()

    def wait(self) -> None:
        """Until it is open."""
        self._open.wait()

    def dismiss(self) -> None:
        """Whoever waits goes on, and nobody waits any more: the ring is left."""
        self._dismissed = True
        self._open.set()
