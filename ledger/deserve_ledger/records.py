"""What a ledger says of accounts, nodes, jobs and challenges: frozen records, the same from every backend.

A record that was never written reads as its empty value, as on the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ChallengeRecord",
    "CoordinatorRecord",
    "Event",
    "JobRecord",
    "NodeRecord",
    "Reservation",
    "Settled",
    "Terms",
    "Totals",
]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed for good when a ledger is made. Periods in seconds, amounts in base units."""

    challenge_window_s: int
    """After a receipt's work, how long it may be challenged; after an announced release, how long a node may claim."""
    audit_retention_s: int
    """How long nodes keep what an audit needs."""
    unbonding_s: int
    """More than the two together, so that nobody leaves before the work can be doubted."""
    refund_grace_s: int
    """After a job's deadline, how long its coordinator may still redeem vouchers."""
    release_delay_s: int
    draw_delay_blocks: int
    """Between a challenge and the block whose hash draws its panel."""
    commit_period_s: int
    reveal_period_s: int
    min_stake: int
    challenge_bond: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    operator: bytes = bytes(20)
    receipt_key: bytes = bytes(20)
    stake: int = 0
    unbonds_at_s: int = 0
    """0: it does not unbond."""
    open_challenges: int = 0
    slashed: bool = False


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    bond: int = 0
    releases_at_s: int = 0
    """0: the bond stays."""
    slashed: bool = False


@dataclass(frozen=True, slots=True)
class JobRecord:
    payer: bytes = bytes(20)
    coordinator: bytes = bytes(20)
    signer: bytes = bytes(20)
    budget: int = 0
    drawn: int = 0
    deadline_s: int = 0
    refunded: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """Of one (coordinator, node). `amount` is still there, `releasing` of it may be taken back from `releases_at_s`."""

    amount: int = 0
    releasing: int = 0
    releases_at_s: int = 0
    claimed: int = 0
    """Cumulative, by roots and credits together."""

    @property
    def safe(self) -> int:
        """What a node may count on for work that it has not claimed yet."""
        return self.amount - self.releasing


@dataclass(frozen=True, slots=True)
class ChallengeRecord:
    challenger: bytes = bytes(20)
    node_id: bytes = bytes(32)
    work_id: bytes = bytes(32)
    job_id: bytes = bytes(32)
    evidence: bytes = bytes(32)
    bond: int = 0
    panel: tuple[bytes, ...] = ()
    """Node ids, empty before the draw."""
    guilty: int = 0
    acquitted: int = 0
    commits_until_s: int = 0
    reveals_until_s: int = 0
    resolved: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """Where all tokens in the ledger's keeping are: the first five make what it holds. `burnt` left it for good."""

    balances: int
    stakes: int
    undrawn: int
    reservations: int
    bonds: int
    burnt: int

    @property
    def held(self) -> int:
        return self.balances + self.stakes + self.undrawn + self.reservations + self.bonds


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state. `position` grows; `fields` are as the contract's event of this `name` has them."""

    position: int
    name: str
    fields: dict[str, int | bytes | bool]


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that took effect for good."""

    reference: bytes
    """Hash of the transaction or of the journal entry."""
    events: tuple[Event, ...]
    gas: int = 0
