"""Ledger and mover together, between the thread that announces steps, the one that computes, and those that copy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from deserve_network.ring_messages import Chunk
from deserve_node.engine.ledger import Ledger, Transfer
from deserve_node.engine.mover import Mover
from deserve_node.engine.pages import PageTable
from deserve_node.errors import NodeError

__all__ = ["COPY_DEADLINE_S", "CopyError", "Swapper"]

COPY_DEADLINE_S = 300.0
"""Far beyond any transfer: a lane that takes longer has died."""


class CopyError(NodeError):
    """Pages could not be copied between device and host memory."""


class Swapper:
    """Brings each step's pages to the device before it computes, and takes others away after it.

    `begin` steps in the order in which they compute; each then takes `wait` and `end` on the computing thread.
    """

    def __init__(self, ledger: Ledger, mover: Mover) -> None:
        self._ledger = ledger
        self.mover = mover
        # Re-entrant: a mover may be done before `start` returns.
        self._changed = threading.Condition(threading.RLock())
        self._failure: BaseException | None = None

    @property
    def pages_used(self) -> int:
        return self._ledger.pages_used

    def tune(self, microbatches: int, swap_pages: int, prefetch_depth: int) -> None:
        """See `Ledger.tune`."""
        with self._changed:
            self._ledger.tune(microbatches, swap_pages, prefetch_depth)

    def begin(self, microbatch: int, released: Sequence[int], chunks: Sequence[Chunk]) -> int:
        """Announce the next step, so that its pages come in while earlier ones compute. Returns its number."""
        with self._changed:
            number, transfers = self._ledger.begin(microbatch, released, chunks)
            self._start(transfers)
            return number

    def wait(self, number: int) -> tuple[tuple[PageTable, ...], float]:
        """Page tables of the step, once its pages are there, and the seconds that took.

        Raises `OutOfPagesError` where they cannot be, `CopyError` where copying failed.
        """
        started = time.perf_counter()
        with self._changed:
            there = self._changed.wait_for(
                lambda: self._failure is not None or self._ledger.ready(number), COPY_DEADLINE_S
            )
            if not there or self._failure is not None:
                reason = self._failure or f"not done after {COPY_DEADLINE_S:g} s"
                raise CopyError(f"pages of step {number}: {reason}") from self._failure
            tables = self._ledger.tables(number)
        self.mover.fence(number)
        return tables, time.perf_counter() - started

    def end(self, number: int) -> None:
        """The step has computed."""
        self.mover.computed(number)
        with self._changed:
            self._start(self._ledger.end(number))
            self._changed.notify_all()

    def forget(self, sequences: Sequence[int]) -> None:
        """Free these sequences while no step is under way."""
        with self._changed:
            self._ledger.forget(sequences)

    def close(self) -> None:
        """End the copies; whoever waits for one gets a `CopyError`."""
        with self._changed:
            self._failure = self._failure or CopyError("closed")
            self._changed.notify_all()
        self.mover.close()

    def _start(self, transfers: Sequence[Transfer]) -> None:
        for transfer in transfers:
            self.mover.start(transfer, self._done_with(transfer))

    def _done_with(self, transfer: Transfer) -> Callable[[BaseException | None], None]:
        def done(error: BaseException | None) -> None:
            with self._changed:
                if error is not None:
                    self._failure = error
                else:
                    self._start(self._ledger.done(transfer))
                self._changed.notify_all()

        return done
