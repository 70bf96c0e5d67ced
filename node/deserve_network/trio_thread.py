"""The one thread that runs trio, seen from asyncio.

py-libp2p speaks only trio; everything else here speaks asyncio. `TrioThread` runs one trio event loop in a thread and
carries calls across: `call` awaits a trio coroutine from asyncio, `post` runs a plain function there soon, `spawn`
starts a trio task from within. A hop costs about 90 us each way, so callers move whole frames, never pieces. This
module knows nothing of libp2p.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from deserve_network.errors import NetworkError

__all__ = ["TrioThread"]

T = TypeVar("T")
log = logging.getLogger(__name__)


class TrioThread:
    """A trio loop in a thread of its own, bound to the asyncio loop that started it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.failures = 0
        """Trio tasks that ended with an exception nobody awaited."""
        self._thread = threading.Thread(target=self._run, name="deserve-libp2p", daemon=True)
        self._ready: asyncio.Future[None] = loop.create_future()
        self._done = asyncio.Event()
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._stop: trio.Event

    @classmethod
    async def start(cls) -> TrioThread:
        self = cls(asyncio.get_running_loop())
        self._thread.start()
        await self._ready
        return self

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException:
            log.exception("the libp2p thread died")
        finally:
            self.notify(self._done.set)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.notify(self._ready.set_result, None)
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def notify(self, function: Callable[..., object], *args: Any) -> None:
        """From trio: run a plain function on the asyncio loop soon. Does nothing once that loop is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """From asyncio: run a plain function in the trio thread soon. Raises `NetworkError` once it has ended."""
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError as error:
            raise NetworkError("the host is closed") from error

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """From trio: start a task that lives until it ends or the thread closes; none once it closes."""
        if not self._stop.is_set():
            self._nursery.start_soon(self._guarded, function, args)

    async def _guarded(self, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception:
            self.failures += 1
            log.exception("a libp2p task failed")

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """From asyncio: await a trio coroutine function. Cancelling the caller cancels it there."""
        result: asyncio.Future[T] = self.loop.create_future()
        scope = trio.CancelScope()

        def settle(value: Any, error: BaseException | None) -> None:
            if result.done():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        async def run() -> None:
            value: Any = None
            failure: BaseException | None = NetworkError("the host is closed")
            try:
                with scope:
                    value = await function(*args)
                    failure = None
            except Exception as error:  # noqa: BLE001 - handed to the caller
                failure = error
            finally:
                self.notify(settle, value, failure)

        def begin() -> None:
            if self._stop.is_set():
                self.notify(settle, None, NetworkError("the host is closed"))
            else:
                self._nursery.start_soon(run)

        self.post(begin)
        try:
            return await result
        except asyncio.CancelledError:
            with contextlib.suppress(NetworkError):
                self.post(scope.cancel)
            raise

    async def close(self) -> None:
        """Cancel every task and join the thread; safe to repeat."""
        with contextlib.suppress(NetworkError):
            self.post(self._stop.set)
        await self._done.wait()
        self._thread.join()
