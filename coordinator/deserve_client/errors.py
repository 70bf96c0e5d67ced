"""What goes wrong on the submitter's side, and the exit code each kind has.

    ClientError            1  the coordinator refused, or the result is not what it should be
    ├── InputError         2  the command, a setting or the input file is wrong; nothing was sent
    └── UnreachableError   4  the coordinator could not be reached, retries included

Further exit codes: 0 ok, 3 some rows of a batch have failed, 130 interrupted.
"""

from __future__ import annotations

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_NETWORK",
    "EXIT_PARTIAL",
    "EXIT_USAGE",
    "ClientError",
    "InputError",
    "UnreachableError",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_NETWORK = 4
EXIT_INTERRUPTED = 130


class ClientError(Exception):
    """Root of this package's errors. `status` is the HTTP status where the coordinator answered, else 0."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class InputError(ClientError):
    """Something the user must change before anything is sent."""

    exit_code = EXIT_USAGE


class UnreachableError(ClientError):
    """No usable answer from the coordinator."""

    exit_code = EXIT_NETWORK
