"""One thread for work that cannot be interrupted: fetching, loading and measuring layers, one call after the other.

It is a daemon thread, which a process that is told to end leaves behind: asyncio would wait at exit for threads of its
own pools, and fetching a model may take hours. Such a process has to end by `exit_process`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

__all__ = ["BackgroundThread", "exit_process"]

Result = TypeVar("Result")


class BackgroundThread:
    """Calls wait for those before them, even for one whose caller is gone: two loads never hold memory at once."""

    def __init__(self, name: str, *, niceness: int = 0) -> None:
        """`niceness` above 0 leaves the processor to others (Linux; elsewhere threads have none of their own)."""
        self._name = name
        self._niceness = niceness
        self._worker: _Worker | None = None

    async def run(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`, or its exception. Cancelling a call that has not started takes it back."""
        if self._worker is None:
            self._worker = _Worker(self._name, self._niceness)
            self._worker.start()
        future: Future[Result] = Future()
        self._worker.calls.put((function, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread once it is idle, without waiting for that."""
        if self._worker is not None:
            self._worker.calls.put(None)
            self._worker = None


class _Worker(threading.Thread):
    def __init__(self, name: str, niceness: int) -> None:
        super().__init__(name=name, daemon=True)
        self._niceness = niceness
        self.calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self.busy = False

    def run(self) -> None:
        if self._niceness and sys.platform == "linux":
            # Threads that torch starts from this one inherit it.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while (call := self.calls.get()) is not None:
            self.busy = True
            _carry_out(*call)
            self.busy = False
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


def exit_process(code: int) -> NoReturn:
    """End this process, also while a background thread computes.

    The interpreter ends daemon threads by unwinding them when they next want its lock, and unwinding through torch's
    C++ aborts the process ("terminate called without an active exception").
    """
    if any(isinstance(thread, _Worker) and thread.busy for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
