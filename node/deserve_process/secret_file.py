"""Secrets come from files of their owner, never from flags: the process list would show them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from deserve_process.errors import SecretUnusable

__all__ = ["read_secret"]

_LONGEST_SECRET = 256


def read_secret(path: Path) -> str:
    """One line of 1 to 256 printable ASCII characters. Raises `SecretUnusable` naming the file, also where others than
    its owner can read it.
    """
    try:
        with path.open(encoding="ascii") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            secret = stream.read(_LONGEST_SECRET + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnusable(f"{path}: {error}") from error
    if os.name == "posix" and mode & 0o077:
        raise SecretUnusable(f"{path}: mode {mode:04o} lets others read the secret; run: chmod 600 {path}")
    if not 1 <= len(secret) <= _LONGEST_SECRET or not secret.isprintable():
        raise SecretUnusable(f"{path}: expected one line of 1 to {_LONGEST_SECRET} printable ASCII characters")
    return secret
