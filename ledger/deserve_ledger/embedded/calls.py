"""What only a journal is asked: how its money comes into being and goes.

On a chain a token contract does that. Here the owner of the journal takes money by other means, and issues what it
then owes: an account's balance in an embedded ledger is worth what its owner's word is worth (docs/ledger.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from deserve_ledger.calls import Call

__all__ = ["Issue", "JournalCall", "Retire"]


@dataclass(frozen=True, slots=True)
class Issue:
    """By the journal's owner: it has been given `amount` for `account`, whose tokens they are from now on."""

    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Retire:
    """By whoever holds the tokens: the owner has paid them out by other means."""

    amount: int


JournalCall = Call | Issue | Retire
