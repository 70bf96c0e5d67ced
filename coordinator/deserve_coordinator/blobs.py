"""File contents on disk under the data directory, named by file id, readable by the owner only.

A blob is written to a temporary name, synced and renamed: a name that exists is a whole file. What a file is for is
in the store, not here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

__all__ = ["BlobWriter", "Blobs"]


class BlobWriter:
    """A blob in the making. `commit` publishes it; `abandon` leaves nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(".part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class Blobs:
    """The folder of blobs, made with mode 0700 where it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, file_id: str) -> Path:
        return self._folder / file_id

    def create(self, file_id: str) -> BlobWriter:
        return BlobWriter(self.path(file_id))

    def delete(self, file_id: str) -> None:
        self.path(file_id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> int:
        """Delete what a crash left behind: parts, and blobs that no record names. Returns how many."""
        orphans = [entry for entry in self._folder.iterdir() if entry.name not in known]
        for entry in orphans:
            entry.unlink()
        return len(orphans)
