"""Everybody's money as the events of a ledger tell it: what each account put in, has, earned and lost.

A pure fold over events from the first one on, the same for every backend. It needs no view of the ledger, so it shows
whether the ledger's own sums are true: `check` compares them to the last base unit.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from deserve_ledger.errors import LedgerError
from deserve_ledger.records import Event, Totals

__all__ = ["Account", "Books", "BooksDiffer"]


@functools.lru_cache(maxsize=256)
def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


class BooksDiffer(LedgerError):
    """The events do not make what the ledger says it holds."""


@dataclass(slots=True)
class Account:
    """One address. All in base units, each figure a sum since the first event."""

    deposited: int = 0
    withdrawn: int = 0
    balance: int = 0
    """What it could withdraw now."""
    escrowed: int = 0
    """Put into jobs, as their payer."""
    refunded: int = 0
    """What came back out of them."""
    drawn: int = 0
    """Received for vouchers, as a coordinator."""
    reserved: int = 0
    """Set aside for nodes, less what came back."""
    paid: int = 0
    """Received for credits, as an operator."""
    paid_out: int = 0
    """That others received for its credits."""
    staked: int = 0
    """Stakes and bonds, less what came back."""
    slashed: int = 0
    """Of those."""
    rewarded: int = 0
    """Out of others' stakes and bonds: for what it proved, and for what was done to it."""


@dataclass
class Books:
    accounts: dict[bytes, Account] = field(default_factory=lambda: defaultdict(Account))
    burnt: int = 0
    undrawn: dict[bytes, int] = field(default_factory=dict)
    """Of each job that is open."""
    position: int = -1
    """Of the last event."""
    _payers: dict[bytes, bytes] = field(default_factory=dict)
    _operators: dict[bytes, bytes] = field(default_factory=dict)
    _stakes: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    _bonds: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    _reservations: dict[tuple[bytes, bytes], int] = field(default_factory=lambda: defaultdict(int))
    _challenges: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    _panels: dict[int, tuple[bytes, ...]] = field(default_factory=dict)

    def read(self, events: Iterable[Event]) -> None:
        """Take events in the order of their positions; those that were read before are passed over."""
        for event in events:
            if event.position > self.position:
                self.position = event.position
                reader = _READERS.get(event.name)
                if reader is not None:
                    reader(self, **{_snake(name): value for name, value in event.fields.items()})

    def operator(self, node_id: bytes) -> bytes:
        """Address, or zeros for a node that was never registered."""
        return self._operators.get(node_id, bytes(20))

    @property
    def open_challenges(self) -> int:
        return len(self._challenges)

    @property
    def totals(self) -> Totals:
        """What the events add up to."""
        return Totals(
            balances=sum(account.balance for account in self.accounts.values()),
            stakes=sum(self._stakes.values()),
            undrawn=sum(self.undrawn.values()),
            reservations=sum(self._reservations.values()),
            bonds=sum(self._bonds.values()) + sum(bond for _, bond in self._challenges.values()),
            burnt=self.burnt,
        )

    def check(self, totals: Totals) -> None:
        """Raises `BooksDiffer` naming the sum, where the ledger says something else or money came out of nowhere."""
        for name in Totals.__dataclass_fields__:
            ours, theirs = getattr(self.totals, name), getattr(totals, name)
            if ours != theirs:
                raise BooksDiffer(f"{name}: the events make {ours}, the ledger says {theirs}")
        inside = sum(account.deposited - account.withdrawn for account in self.accounts.values())
        if inside != totals.held + totals.burnt:
            raise BooksDiffer(f"{inside} came in and stayed, {totals.held} are held and {totals.burnt} burnt")

    def _reward(self, total: int, burnt: int, accuser: bytes, injured: bytes) -> None:
        """Both got the same, or the accuser alone where nobody was injured."""
        share = (total - burnt) // 2 if any(injured) else total - burnt
        for party in (accuser, injured) if any(injured) else (accuser,):
            self.accounts[party].balance += share
            self.accounts[party].rewarded += share
        self.burnt += burnt

    def _deposited(self, account: bytes, amount: int) -> None:
        self.accounts[account].deposited += amount
        self.accounts[account].balance += amount

    def _withdrawn(self, account: bytes, amount: int) -> None:
        self.accounts[account].withdrawn += amount
        self.accounts[account].balance -= amount

    def _registered(self, node_id: bytes, operator: bytes, stake: int, **_: Any) -> None:
        self._operators[node_id] = operator
        self._stake(node_id, operator, stake)

    def _stake(self, node_id: bytes, operator: bytes, amount: int) -> None:
        self._stakes[node_id] += amount
        self.accounts[operator].staked += amount
        self.accounts[operator].balance -= amount

    def _unstaked(self, node_id: bytes, operator: bytes, amount: int) -> None:
        self._stake(node_id, operator, -amount)

    def _bond(self, coordinator: bytes, amount: int) -> None:
        self._bonds[coordinator] += amount
        self.accounts[coordinator].staked += amount
        self.accounts[coordinator].balance -= amount

    def _unbonded(self, coordinator: bytes, amount: int) -> None:
        self._bond(coordinator, -amount)

    def _opened(self, job_id: bytes, payer: bytes, budget: int, **_: Any) -> None:
        self._payers[job_id] = payer
        self.undrawn[job_id] = budget
        self.accounts[payer].escrowed += budget
        self.accounts[payer].balance -= budget

    def _redeemed(self, job_id: bytes, coordinator: bytes, amount: int, **_: Any) -> None:
        self.undrawn[job_id] -= amount
        self.accounts[coordinator].drawn += amount
        self.accounts[coordinator].balance += amount

    def _refunded(self, job_id: bytes, payer: bytes, amount: int) -> None:
        self.undrawn[job_id] -= amount
        self.accounts[payer].refunded += amount
        self.accounts[payer].balance += amount

    def _reserve(self, coordinator: bytes, node_id: bytes, amount: int) -> None:
        self._reservations[coordinator, node_id] += amount
        self.accounts[coordinator].reserved += amount
        self.accounts[coordinator].balance -= amount

    def _released(self, coordinator: bytes, node_id: bytes, amount: int) -> None:
        self._reserve(coordinator, node_id, -amount)

    def _claimed(self, coordinator: bytes, node_id: bytes, operator: bytes, amount: int) -> None:
        self._reservations[coordinator, node_id] -= amount
        self.accounts[coordinator].reserved -= amount
        self.accounts[coordinator].paid_out += amount
        self.accounts[operator].paid += amount
        self.accounts[operator].balance += amount

    def _node_slashed(self, node_id: bytes, accuser: bytes, submitter: bytes, amount: int, burnt: int) -> None:
        self._stakes[node_id] -= amount
        operator = self.accounts[self.operator(node_id)]
        operator.staked -= amount
        operator.slashed += amount
        self._reward(amount, burnt, accuser, submitter)

    def _coordinator_slashed(self, coordinator: bytes, accuser: bytes, injured: bytes, amount: int, burnt: int) -> None:
        self._bonds[coordinator] -= amount
        self.accounts[coordinator].staked -= amount
        self.accounts[coordinator].slashed += amount
        self._reward(amount, burnt, accuser, injured)

    def _challenged(self, challenge_id: int, challenger: bytes, bond: int, **_: Any) -> None:
        self._challenges[challenge_id] = challenger, bond
        self.accounts[challenger].balance -= bond
        self.accounts[challenger].staked += bond

    def _drawn(self, challenge_id: int, first: bytes, second: bytes, third: bytes, **_: Any) -> None:
        self._panels[challenge_id] = first, second, third

    def _resolved(self, challenge_id: int, acquitted: int, bond: int, **_: Any) -> None:
        challenger, _bond = self._challenges.pop(challenge_id)
        panel = self._panels.pop(challenge_id, ())
        self.accounts[challenger].staked -= bond
        if not panel or acquitted < len(panel):
            self.accounts[challenger].balance += bond
            return
        self.accounts[challenger].slashed += bond
        share = bond // len(panel)
        for seat, node_id in enumerate(panel):
            received = bond - (len(panel) - 1) * share if seat == 0 else share
            member = self.accounts[self.operator(node_id)]
            member.balance += received
            member.rewarded += received


_READERS: dict[str, Callable[..., None]] = {
    "Deposited": Books._deposited,
    "Withdrawn": Books._withdrawn,
    "NodeRegistered": Books._registered,
    "StakeAdded": Books._stake,
    "StakeWithdrawn": Books._unstaked,
    "BondAdded": Books._bond,
    "BondWithdrawn": Books._unbonded,
    "JobOpened": Books._opened,
    "VoucherRedeemed": Books._redeemed,
    "JobRefunded": Books._refunded,
    "Reserved": Books._reserve,
    "Released": Books._released,
    "Claimed": Books._claimed,
    "NodeSlashed": Books._node_slashed,
    "CoordinatorSlashed": Books._coordinator_slashed,
    "Challenged": Books._challenged,
    "PanelDrawn": Books._drawn,
    "ChallengeResolved": Books._resolved,
}
