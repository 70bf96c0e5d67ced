"""Following a batch to its end, and showing it: live on a terminal, in plain lines elsewhere. Always on stderr.

A `Display` shows snapshots; `follow` polls a client and feeds a display. Nothing here submits, downloads or decides an
exit code. The testnet command uses the same pieces.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TextIO

from deserve_client.api import TERMINAL_STATUSES
from deserve_client.errors import ClientError, UnreachableError
from deserve_client.snapshot import Rate, Snapshot, loads, snapshot, summary

__all__ = ["BatchSource", "Display", "PlainDisplay", "follow", "make_display"]

PLAIN_INTERVAL_S = 10.0
POLL_S = 1.0


class Display(Protocol):
    def show(self, view: Snapshot) -> None: ...
    def close(self) -> None: ...


class PlainDisplay:
    """A line when the status changes, else at most one every `interval_s`: for logs and pipes."""

    def __init__(
        self, out: TextIO, *, interval_s: float = PLAIN_INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out
        self._interval_s = interval_s
        self._clock = clock
        self._shown: tuple[str, int] | None = None
        self._next_s = 0.0

    def show(self, view: Snapshot) -> None:
        now_s = self._clock()
        changed = self._shown is None or view.status != self._shown[0]
        moved = self._shown is not None and view.completed + view.failed != self._shown[1]
        if not changed and not (moved and now_s >= self._next_s):
            return
        self._shown = (view.status, view.completed + view.failed)
        self._next_s = now_s + self._interval_s
        print("  ".join(filter(None, (view.batch_id, summary(view), loads(view)))), file=self._out, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


def make_display(out: TextIO = sys.stderr) -> Display:
    """A live display where `out` is a terminal, plain lines elsewhere."""
    if not out.isatty():
        return PlainDisplay(out)
    from deserve_client.live_display import LiveDisplay

    return LiveDisplay(out)


class BatchSource(Protocol):
    """The two reads of `CoordinatorClient` that following needs."""

    async def batch(self, batch_id: str) -> dict[str, Any]: ...
    async def network(self) -> dict[str, Any]: ...


async def follow(
    client: BatchSource,
    batch_id: str,
    display: Display,
    *,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> dict[str, Any]:
    """Poll until the batch has ended and return its last object. Raises the client's errors.

    A coordinator without /v1/network is followed too, without loads.
    """
    rate = Rate()
    network_known = True
    try:
        while True:
            batch = await client.batch(batch_id)
            network = None
            if network_known:
                try:
                    network = await client.network()
                except UnreachableError:
                    raise
                except ClientError:
                    network_known = False
            display.show(snapshot(batch, network, rate, clock()))
            if batch.get("status") in TERMINAL_STATUSES:
                return batch
            await sleep(poll_s)
    finally:
        display.close()
