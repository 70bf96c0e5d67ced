"""What can go wrong between parties that do not trust each other.

LedgerError
├── InvalidField         a value that no honest party sends; names the field
├── BadSignature         a signature that is malformed, malleable or somebody else's
├── Refused              the ledger turned a call down; `reason` is the contract's error name, in every backend
├── Unsettled            a call was sent and its fate is not known yet; it is asked again, never sent twice
├── ChainUnreachable     the RPC endpoint does not answer
├── ChainRefused         the RPC endpoint answers with an error of its own
├── Unfunded             the account cannot pay for a transaction's gas
├── OutboxHeld           another process makes transactions with this account
├── Reorganised          blocks that counted as final are gone; `position` says from where to ask again
├── JournalUnusable      a journal's file is in use by another process, or cannot be written
├── RolledBack           a counterparty showed a journal that is shorter than, or differs from, what it signed before
├── KeystoreError        a key file that is missing, unsafe or does not open
└── DevnetUnusable       a development chain's directory or address is taken, or its log is damaged
"""

from __future__ import annotations

__all__ = [
    "BadSignature",
    "ChainRefused",
    "ChainUnreachable",
    "DevnetUnusable",
    "InvalidField",
    "JournalUnusable",
    "KeystoreError",
    "LedgerError",
    "OutboxHeld",
    "Refused",
    "Reorganised",
    "RolledBack",
    "Unfunded",
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


class ChainRefused(LedgerError):
    pass


class Unfunded(LedgerError):
    pass


class OutboxHeld(LedgerError):
    pass


class Reorganised(LedgerError):
    def __init__(self, position: int) -> None:
        super().__init__(f"the chain took back blocks that counted as final: events after {position} are not the same")
        self.position = position


class JournalUnusable(LedgerError):
    pass


class RolledBack(LedgerError):
    pass


class KeystoreError(LedgerError):
    pass


class DevnetUnusable(LedgerError):
    pass
