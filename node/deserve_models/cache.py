"""Where downloaded and converted models are kept, and how one of several processes makes an entry.

An entry is a directory that appears by one rename, so a reader never sees half of it. Whoever makes it holds a file
lock; a crash leaves a `.partial` directory that the next holder of the lock removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cache_root", "locked", "make_once"]


def cache_root() -> Path:
    """deserve-net under $XDG_CACHE_HOME, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deserve-net"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, waiting for whoever has it (the system frees a dead holder's)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, filled by `make(empty directory)` unless it exists. What `make` raises leaves nothing behind."""
    if directory.is_dir():
        return directory
    partial = directory.with_name(directory.name + ".partial")
    with locked(directory.with_name(directory.name + ".lock")):
        if directory.is_dir():
            return directory
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            make(partial)
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory
