"""One SQLite file behind asyncio: a writer thread with group commit and a reader thread.

All writes that wait together share one transaction and one fsync (WAL, synchronous=FULL); each runs in its own
savepoint, so that one failing write takes nothing else with it. A write's future resolves after the commit, never
before: whoever awaits it may acknowledge. Knows nothing of the tables.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deserve_coordinator.errors import StoreError
from deserve_coordinator.store.migrate import migrate

__all__ = ["Database"]

T = TypeVar("T")

_LARGEST_GROUP = 256


@dataclass(frozen=True)
class _Write:
    work: Callable[[sqlite3.Connection], Any]
    done: concurrent.futures.Future[Any]


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its journal files the mode of the database file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


class Database:
    """Opens `path`, migrating it if needed. Raises `StoreError` where the file is no database of ours."""

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as opened:
            try:
                self._writer = opened.enter_context(contextlib.closing(_connect(path)))
                migrate(self._writer)
                self._reader = opened.enter_context(contextlib.closing(_connect(path)))
                self._reader.execute("PRAGMA query_only=ON")
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"{path}: {error}") from error
            opened.pop_all()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._reading = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._write_forever, name="store-write", daemon=True)
        self._thread.start()
        self._closed = False
        self.commits = 0

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the writer thread and return its value once the transaction is on disk."""
        if self._closed:
            raise StoreError("the store is closed")
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put(_Write(work, done))
        return await asyncio.wrap_future(done)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the last committed state."""
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._reading, work, self._reader)

    def close(self) -> None:
        """Finish the writes that wait, then close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._reading.shutdown()
        self._reader.close()
        self._writer.close()

    def _write_forever(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            group: list[_Write] = []
            while True:
                if first is None:
                    stopping = True
                    break
                if first.done.set_running_or_notify_cancel():
                    group.append(first)
                if len(group) >= _LARGEST_GROUP or self._queue.empty():
                    break
                first = self._queue.get()
            if group:
                self._commit(group)

    def _commit(self, group: list[_Write]) -> None:
        outcomes: list[tuple[_Write, Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in group:
                self._writer.execute("SAVEPOINT one")
                try:
                    value = write.work(self._writer)
                except BaseException as error:  # noqa: BLE001 - handed to the caller, who awaits it
                    self._writer.execute("ROLLBACK TO one")
                    outcomes.append((write, None, error))
                else:
                    outcomes.append((write, value, None))
                self._writer.execute("RELEASE one")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            for write in group:
                write.done.set_exception(StoreError(f"commit failed: {error}"))
            return
        self.commits += 1
        for write, value, failure in outcomes:
            if failure is None:
                write.done.set_result(value)
            else:
                write.done.set_exception(failure)
