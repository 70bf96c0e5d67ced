"""One node per data directory: an advisory lock that the kernel drops when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deserve_node.errors import NodeError

__all__ = ["DataError", "is_held", "locked_data"]

_LOCK = "lock"


class DataError(NodeError):
    """The data directory cannot be used, or another node uses it."""


@contextmanager
def locked_data(folder: Path) -> Iterator[None]:
    """Make `folder` (mode 0700) and hold it. Raises `DataError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataError(f"data: {folder}: {error.strerror}") from error
    try:
        if not _take(descriptor):
            raise DataError(f"data: another node runs on {folder}; give this one a --data directory of its own")
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a node runs on `folder` now."""
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
