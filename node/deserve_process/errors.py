"""What keeps a process from starting. The one who starts it can change all of it.

ProcessError
├── AddressInvalid     a text that is not HOST:PORT
├── SecretUnusable     a secret's file that is missing, empty, or open to others; names it
└── DataUnusable       a data directory that cannot be made or written; names it
    └── DataInUse      another process of the same kind holds it
"""

from __future__ import annotations

__all__ = ["AddressInvalid", "DataInUse", "DataUnusable", "ProcessError", "SecretUnusable"]


class ProcessError(Exception):
    """Root of this package's errors."""


class AddressInvalid(ProcessError):
    """A text that is not HOST:PORT. Which flag or key it came from is for the caller to say."""


class SecretUnusable(ProcessError):
    """A secret's file that is missing, holds no secret, or can be read by others."""


class DataUnusable(ProcessError):
    """A data directory that cannot be made or written."""


class DataInUse(DataUnusable):
    """Another process of the same kind holds the data directory."""
