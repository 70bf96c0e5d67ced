"""An embedded ledger for tests: a real journal with a clock that a test sets, and a look at its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deserve_ledger.calls import Call, Deposit
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.embedded.ledger import EmbeddedLedger
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.keystore import Key
from deserve_ledger.records import Settled, Terms

TERMS = Terms(
    challenge_window_s=3600,
    audit_retention_s=3600,
    unbonding_s=9000,
    refund_grace_s=600,
    release_delay_s=3600,
    draw_delay_blocks=1,
    commit_period_s=60,
    reveal_period_s=60,
    min_stake=100,
    challenge_bond=10,
)


class Book:
    """`state` is the newest; `now_s` may be set, forwards only."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1_000_000
        self._folder = folder
        self._owner = Key.generate()
        self._journal = Journal(folder / "journal.db", self._owner.secret, TERMS, clock=lambda: self.now_s)
        self._shared = OwnedJournal(self._journal)

    @property
    def state(self) -> Any:
        return self._journal.tip.state

    @property
    def domain(self) -> Any:
        return self.state.domain

    def ledger(self, key: Key) -> EmbeddedLedger:
        pending = self._folder / f"pending-{key.address.hex()}.json"
        return EmbeddedLedger(self._shared, key.secret, pending)

    async def submit(self, key: Key, *calls: Call) -> list[Settled]:
        return [await self.ledger(key).submit(call) for call in calls]

    async def fund(self, key: Key, amount: int) -> None:
        """Base units of the ledger's balance for the account of `key`."""
        await self.ledger(self._owner).submit(Issue(key.address, amount))
        await self.submit(key, Deposit(amount))

    def close(self) -> None:
        self._shared.shut_down()
