"""A state that is being changed by one call: what the rules of this package are written against.

Money moves only by `pay` and `take`, which keep the totals, so that a rule that forgets half of a movement shows as a
sum that does not hold. The draft is thrown away where a rule refuses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deserve_ledger.eip712 import Typed, recover
from deserve_ledger.embedded.state import Moment, State
from deserve_ledger.errors import BadSignature, Refused
from deserve_ledger.records import Event

__all__ = ["ZERO_ADDRESS", "ZERO_WORD", "Draft", "require"]

ZERO_ADDRESS = bytes(20)
ZERO_WORD = bytes(32)


def require(holds: bool, reason: str) -> None:
    """Raises `Refused` with the contract's error name `reason` unless it holds."""
    if not holds:
        raise Refused(reason)


class Draft:
    """`state` changes as the call of `sender` takes effect at `when`; `events` tell it."""

    def __init__(self, state: State, sender: bytes, when: Moment) -> None:
        self.state = state
        self.sender = sender
        self.when = when
        self.events: list[Event] = []

    def set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    def emit(self, name: str, **fields: int | bytes | bool) -> None:
        self.events.append(Event(len(self.events), name, fields))

    def add_totals(self, **changes: int) -> None:
        """Add to fields of `Totals`."""
        totals = self.state.totals
        self.set(totals=replace(totals, **{name: getattr(totals, name) + by for name, by in changes.items()}))

    def pay(self, account: bytes, amount: int) -> None:
        """Into the balance of `account`."""
        if amount:
            balances = self.state.balances
            self.set(balances=balances.insert(account, balances.get(account, 0) + amount))
            self.add_totals(balances=amount)

    def take(self, account: bytes, amount: int) -> None:
        """Out of the balance of `account`. Refused where it holds less."""
        held = self.state.balances.get(account, 0)
        require(held >= amount, "InsufficientBalance")
        if amount:
            self.set(balances=self.state.balances.insert(account, held - amount))
            self.add_totals(balances=-amount)

    def signer(self, message: Typed, signature: bytes) -> bytes:
        """Whose signature it is. Refused where nobody can have made it."""
        try:
            return recover(self.state.domain, message, signature)
        except BadSignature as malformed:
            raise Refused("InvalidSignature") from malformed
