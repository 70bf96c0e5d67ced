"""The batches of one input file, seen as one: what `deserve_client.progress.follow` polls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deserve_client.api import TERMINAL_STATUSES
from deserve_client.outcome import fault_lines
from deserve_client.progress import BatchSource
from deserve_testnet.errors import UsageError
from deserve_testnet.repeated_failure import RepeatedFailure
from deserve_testnet.report import Load

__all__ = ["JoinedBatches"]

Json = dict[str, Any]


class JoinedBatches:
    """Sums several batch objects into one. `load` gathers what the network says; `last_row_s` is when no row was left.

    Reading raises UsageError, naming lines, if the coordinator finds the input faulty after all.
    """

    def __init__(
        self, source: BatchSource, batch_ids: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.batch_ids = tuple(batch_ids)
        self.latest: tuple[Json, ...] = ()
        self.load = Load()
        self.last_row_s: float | None = None
        self._failure = RepeatedFailure()
        self._source = source
        self._clock = clock

    async def batch(self, batch_id: str) -> Json:
        """The sum of all batches, under the name `batch_id`."""
        self.latest = tuple([await self._source.batch(one) for one in self.batch_ids])
        for batch in self.latest:
            if batch["status"] == "failed":
                raise UsageError("\n".join(fault_lines(batch)) or f"batch {batch['id']} failed")
        counts = _sum(self.latest, "request_counts", ("total", "completed", "failed"))
        known = all(batch["status"] != "validating" for batch in self.latest)
        if known and self.last_row_s is None and counts["completed"] + counts["failed"] == counts["total"]:
            self.last_row_s = self._clock()
        statuses = [batch["status"] for batch in self.latest]
        unfinished = [status for status in statuses if status not in TERMINAL_STATUSES]
        return {
            "id": batch_id,
            "status": (unfinished or [status for status in statuses if status != "completed"] or ["completed"])[0],
            "request_counts": counts,
            "usage": _sum(self.latest, "usage", ("input_tokens", "output_tokens", "total_tokens")),
        }

    async def network(self) -> Json:
        """Raises TestnetError where rings fail again and again for the same reason."""
        view = await self._source.network()
        self._failure.look(view)
        self.load.add(view)
        return view


def _sum(batches: Sequence[Mapping[str, Any]], group: str, fields: Sequence[str]) -> dict[str, int]:
    return {field: sum(int((batch.get(group) or {}).get(field, 0)) for batch in batches) for field in fields}
