"""One process per data directory: an advisory lock that the kernel drops when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deserve_process.errors import DataInUse, DataUnusable

__all__ = ["is_held", "locked_data"]

_LOCK = "lock"


@contextmanager
def locked_data(folder: Path, holder: str) -> Iterator[None]:
    """Make `folder`, close it to others (mode 0700) and hold it. `holder` is what we are, such as "node".

    Raises `DataInUse` where another one holds it, `DataUnusable` where it cannot be used at all.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataUnusable(f"data: {folder}: {error.strerror}") from error
    try:
        if not _take(descriptor):
            raise DataInUse(f"data: another {holder} runs on {folder}; give this one a --data directory of its own")
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds `folder` now."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
