"""One thread for work that cannot be interrupted: fetching, loading and measuring layers, one call after the other.

It is a daemon thread, which a process that is told to end leaves behind: asyncio would wait at exit for threads of its
own pools, and fetching a model may take hours.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["BackgroundThread"]

Result = TypeVar("Result")


class BackgroundThread:
    """Calls wait for those before them, even for one whose caller is gone: two loads never hold memory at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`, or its exception. Cancelling a call that has not started takes it back."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: Future[Result] = Future()
        self._calls.put((function, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread once it is idle, without waiting for that."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            _carry_out(*call)
            del call  # an idle thread holds nobody's tensors


def _carry_out(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - whoever awaits the call gets it
        future.set_exception(error)
    else:
        future.set_result(result)
