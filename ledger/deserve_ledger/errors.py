"""What can go wrong between parties that do not trust each other.

LedgerError
├── InvalidField         a value that no honest party sends; names the field
├── BadSignature         a signature that is malformed, malleable or somebody else's
├── Refused              the ledger turned a call down; `reason` is the contract's error name, in every backend
├── Unsettled            a call was sent and its fate is not known yet; it is asked again, never sent twice
├── ChainUnreachable     the RPC endpoint does not answer
├── RolledBack           a counterparty showed a journal that is shorter than, or differs from, what it signed before
├── KeystoreError        a key file that is missing, unsafe or does not open
└── DevnetUnusable       a development chain's directory or address is taken, or its log is damaged
"""

from __future__ import annotations

__all__ = [
    "BadSignature",
    "ChainUnreachable",
    "DevnetUnusable",
    "InvalidField",
    "KeystoreError",
    "LedgerError",
    "Refused",
    "RolledBack",
    "Unsettled",
]


class LedgerError(Exception):
    """Root of this package's errors."""


class InvalidField(LedgerError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class BadSignature(LedgerError):
    pass


class Refused(LedgerError):
    """`reason` is one of the contract's error names, like "TooEarly"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unsettled(LedgerError):
    pass


class ChainUnreachable(LedgerError):
    pass


class RolledBack(LedgerError):
    pass


class KeystoreError(LedgerError):
    pass


class DevnetUnusable(LedgerError):
    pass
