"""Money in and out of the ledger's keeping, and what vouches for a coordinator."""

from __future__ import annotations

from dataclasses import replace

from deserve_ledger.amounts import MAX_AMOUNT
from deserve_ledger.calls import AddBond, BeginBondRelease, Deposit, Withdraw, WithdrawBond
from deserve_ledger.embedded.calls import Issue, Retire
from deserve_ledger.embedded.draft import ZERO_ADDRESS, Draft, require
from deserve_ledger.records import CoordinatorRecord

__all__ = [
    "add_bond",
    "begin_bond_release",
    "deposit",
    "issue",
    "retire",
    "withdraw",
    "withdraw_bond",
]


def issue(draft: Draft, call: Issue) -> None:
    require(draft.sender == draft.state.issuer, "NotIssuer")
    require(call.account != ZERO_ADDRESS, "ZeroAddress")
    require(draft.state.supply + call.amount <= MAX_AMOUNT, "SupplyExceeded")
    draft.set(supply=draft.state.supply + call.amount)
    _add_tokens(draft, call.account, call.amount)
    draft.emit("Issued", account=call.account, amount=call.amount)


def retire(draft: Draft, call: Retire) -> None:
    _add_tokens(draft, draft.sender, -call.amount)
    draft.set(supply=draft.state.supply - call.amount)
    draft.emit("Retired", account=draft.sender, amount=call.amount)


def _add_tokens(draft: Draft, account: bytes, amount: int) -> None:
    tokens = draft.state.tokens
    held = tokens.get(account, 0) + amount
    require(held >= 0, "ERC20InsufficientBalance")
    draft.set(tokens=tokens.insert(account, held))


def deposit(draft: Draft, call: Deposit) -> None:
    _add_tokens(draft, draft.sender, -call.amount)
    draft.pay(draft.sender, call.amount)
    draft.emit("Deposited", account=draft.sender, amount=call.amount)


def withdraw(draft: Draft, call: Withdraw) -> None:
    draft.take(draft.sender, call.amount)
    _add_tokens(draft, draft.sender, call.amount)
    draft.emit("Withdrawn", account=draft.sender, amount=call.amount)


def add_bond(draft: Draft, call: AddBond) -> None:
    bonded = draft.state.coordinators.get(draft.sender, CoordinatorRecord())
    require(not bonded.slashed, "CoordinatorIsSlashed")
    # Otherwise a release that was begun long ago would let a large bond go at once.
    require(bonded.releases_at_s == 0, "AlreadyUnbonding")
    draft.take(draft.sender, call.amount)
    draft.add_totals(bonds=call.amount)
    _keep(draft, replace(bonded, bond=bonded.bond + call.amount))
    draft.emit("BondAdded", coordinator=draft.sender, amount=call.amount)


def begin_bond_release(draft: Draft, call: BeginBondRelease) -> None:
    bonded = draft.state.coordinators.get(draft.sender, CoordinatorRecord())
    require(bonded.bond > 0, "NothingBonded")
    require(bonded.releases_at_s == 0, "AlreadyUnbonding")
    releases_at_s = draft.when.now_s + draft.state.terms.unbonding_s
    _keep(draft, replace(bonded, releases_at_s=releases_at_s))
    draft.emit("BondReleaseBegun", coordinator=draft.sender, releasesAt=releases_at_s)


def withdraw_bond(draft: Draft, call: WithdrawBond) -> None:
    bonded = draft.state.coordinators.get(draft.sender, CoordinatorRecord())
    require(bonded.releases_at_s > 0, "NotUnbonding")
    require(draft.when.now_s >= bonded.releases_at_s, "TooEarly")
    draft.add_totals(bonds=-bonded.bond)
    draft.pay(draft.sender, bonded.bond)
    _keep(draft, replace(bonded, bond=0, releases_at_s=0))
    draft.emit("BondWithdrawn", coordinator=draft.sender, amount=bonded.bond)


def _keep(draft: Draft, record: CoordinatorRecord) -> None:
    draft.set(coordinators=draft.state.coordinators.insert(draft.sender, record))
