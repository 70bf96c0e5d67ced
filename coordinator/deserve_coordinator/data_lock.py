"""One coordinator per data directory: an advisory lock that the kernel drops when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deserve_coordinator.errors import AlreadyRunning, StoreError

__all__ = ["locked_data"]


@contextmanager
def locked_data(folder: Path) -> Iterator[None]:
    """Make `folder` (mode 0700) and hold it. Raises `AlreadyRunning`, or `StoreError` where it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"{folder}: another coordinator uses this data directory") from None
        yield
    finally:
        os.close(descriptor)
