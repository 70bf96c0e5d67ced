"""Results on their way to the coordinator: kept until it says that they are stored, sent again after a reconnect.

Also carries the head's requests for rows, and the rows that it was asked to give back. It knows the channel only as
something that takes messages.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from deserve_network.control_messages import (
    LeaseRequest,
    RowLog,
    RowResult,
    RowsDone,
    RowsReturned,
    RowsStored,
)
from deserve_text.error_body import error_body

__all__ = ["Outbox", "returned_in_parts"]

Send = Callable[[object], Awaitable[None]]
Item = TypeVar("Item")

MESSAGE_BYTES = 16 << 20
"""What we put into one message; the protocol would take four times that."""
MESSAGE_ROWS = 4096
MAX_BODY_BYTES = 16 << 20


class Outbox:
    """The desk of one ring's head. `deliver` runs while there is a channel; what it could not send stays."""

    def __init__(self, ring: str, epoch: int, numbers: Iterator[int]) -> None:
        """`numbers` gives each report of this node its own, whatever ring or epoch it is of."""
        self.ring = ring
        self.epoch = epoch
        self._numbers = numbers
        self._reports: dict[int, RowsDone] = {}
        self._unsent: list[int] = []
        self._returns: deque[RowsReturned] = deque()
        self._wanted = 0
        self._codecs: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    @property
    def unstored(self) -> tuple[RowsDone, ...]:
        """Reports that the coordinator has not acknowledged, oldest first."""
        return tuple(self._reports.values())

    @property
    def unsent_returns(self) -> tuple[RowsReturned, ...]:
        """Recalled rows that may not have left yet. Sent twice they do no harm: their fence is outdated by then."""
        return tuple(self._returns)

    def want_rows(self, rows: int, codecs: tuple[str, ...]) -> None:
        self._wanted, self._codecs = rows, codecs
        self._changed.set()

    def rows_done(self, results: Sequence[RowResult]) -> None:
        """Keep results and send them. One whose body no message can carry becomes that row's error."""
        for part in _in_parts(map(_sendable, results), lambda result: len(result.body)):
            report = RowsDone(self.ring, self.epoch, next(self._numbers), part)
            self._reports[report.report] = report
            self._unsent.append(report.report)
        self._changed.set()

    def give_back(self, logs: Iterable[RowLog]) -> None:
        """Send rows back that the coordinator recalled."""
        self._returns.extend(returned_in_parts(self.ring, self.epoch, logs, recalled=True))
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
            while self._returns:
                await send(self._returns[0])
                self._returns.popleft()
            if self._wanted:
                wanted, self._wanted = self._wanted, 0
                await send(LeaseRequest(self.ring, self.epoch, wanted, self._codecs))
            self._changed.clear()
            if not self._unsent and not self._returns and not self._wanted:
                await self._changed.wait()


def returned_in_parts(ring: str, epoch: int, logs: Iterable[RowLog], *, recalled: bool = False) -> list[RowsReturned]:
    """Token logs as messages of bounded size; none where there are no rows."""
    return [RowsReturned(ring, epoch, part, recalled) for part in _in_parts(logs, _log_bytes)]


def _in_parts(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[tuple[Item, ...]]:
    part: list[Item] = []
    total = 0
    for item in items:
        if part and (total + size(item) > MESSAGE_BYTES or len(part) == MESSAGE_ROWS):
            yield tuple(part)
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield tuple(part)


def _log_bytes(log: RowLog) -> int:
    """At most what the log takes on the wire: integers and floats of nine bytes, heads of arrays and columns."""
    return 64 + sum(40 + 19 * len(token.top) for token in log.generated)


def _sendable(result: RowResult) -> RowResult:
    if len(result.body) <= MAX_BODY_BYTES:
        return result
    message = f"the response has {len(result.body)} bytes, at most {MAX_BODY_BYTES} can be returned: ask for less"
    body = json.dumps(error_body(400, message, param="logprobs", code="response_too_large")).encode()
    return RowResult(result.row, result.lease, result.fence, body, 400, result.prompt_tokens, result.completion_tokens)
