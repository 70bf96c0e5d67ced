"""What can go wrong in a testnet.

TestnetError                exit code 1
├── UsageError              a flag or an input file is wrong; exit code 2
│   └── Unavailable         this machine or user cannot do what was asked, e.g. `--wan netns` without root
└── ProcessDied             a coordinator or node ended by itself; the text carries its last log lines
"""

from __future__ import annotations

__all__ = ["ProcessDied", "TestnetError", "Unavailable", "UsageError"]


class TestnetError(Exception):
    """Root of this package's errors."""

    __test__ = False
    exit_code = 1


class UsageError(TestnetError):
    exit_code = 2


class Unavailable(UsageError):
    pass


class ProcessDied(TestnetError):
    pass
