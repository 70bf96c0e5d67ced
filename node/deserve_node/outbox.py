"""Results on their way to the coordinator: kept until it says that they are stored, sent again after a reconnect.

Also carries the head's requests for rows. It knows the channel only as something that takes messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from deserve_network.control_messages import LeaseRequest, RowResult, RowsDone, RowsStored

__all__ = ["Outbox"]

Send = Callable[[object], Awaitable[None]]


class Outbox:
    """The desk of one ring's head. `deliver` runs while there is a channel; what it could not send stays."""

    def __init__(self, ring: str, epoch: int, numbers: Iterator[int]) -> None:
        """`numbers` gives each report of this node its own, whatever ring or epoch it is of."""
        self.ring = ring
        self.epoch = epoch
        self._numbers = numbers
        self._reports: dict[int, RowsDone] = {}
        self._unsent: list[int] = []
        self._wanted = 0
        self._changed = asyncio.Event()

    @property
    def unstored(self) -> tuple[RowsDone, ...]:
        """Reports that the coordinator has not acknowledged, oldest first."""
        return tuple(self._reports.values())

    def want_rows(self, rows: int) -> None:
        self._wanted = rows
        self._changed.set()

    def rows_done(self, results: Sequence[RowResult]) -> None:
        report = RowsDone(self.ring, self.epoch, next(self._numbers), tuple(results))
        self._reports[report.report] = report
        self._unsent.append(report.report)
        self._changed.set()

    def stored(self, message: RowsStored) -> None:
        self._reports.pop(message.report, None)

    async def deliver(self, send: Send) -> None:
        """Send everything not acknowledged, then whatever comes. Ends with the exception of `send`."""
        self._unsent = sorted(self._reports)
        while True:
            while self._unsent:
                report = self._reports.get(self._unsent[0])
                if report is not None:
                    await send(report)
                self._unsent.pop(0)
            if self._wanted:
                await send(LeaseRequest(self.ring, self.epoch, self._wanted))
                self._wanted = 0
            self._changed.clear()
            if not self._unsent and not self._wanted:
                await self._changed.wait()
