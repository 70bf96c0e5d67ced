"""What a call does: the rules of `contracts/DeserveLedger.sol` as a pure function.

Same order of checks, same error names, same rounding, same events; tests/ledger/test_backends.py runs both side by
side. Touches no clock, disk or randomness: the moment is an argument, so a journal that is replayed gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any

from deserve_ledger import calls
from deserve_ledger.eip712 import Domain
from deserve_ledger.embedded import accounts, arbitration, jobs, nodes, reservations, slashing
from deserve_ledger.embedded.calls import Issue, JournalCall, Retire
from deserve_ledger.embedded.draft import Draft
from deserve_ledger.embedded.state import Moment, State
from deserve_ledger.errors import InvalidField
from deserve_ledger.records import Event, Terms

__all__ = ["apply", "genesis"]

_RULES: dict[type[Any], Callable[[Draft, Any], None]] = {
    Issue: accounts.issue,
    Retire: accounts.retire,
    calls.Deposit: accounts.deposit,
    calls.Withdraw: accounts.withdraw,
    calls.AddBond: accounts.add_bond,
    calls.BeginBondRelease: accounts.begin_bond_release,
    calls.WithdrawBond: accounts.withdraw_bond,
    calls.RegisterNode: nodes.register_node,
    calls.AddStake: nodes.add_stake,
    calls.BeginUnbond: nodes.begin_unbond,
    calls.WithdrawStake: nodes.withdraw_stake,
    calls.OpenJob: jobs.open_job,
    calls.RedeemVoucher: jobs.redeem_voucher,
    calls.Refund: jobs.refund,
    calls.Reserve: reservations.reserve,
    calls.RequestRelease: reservations.request_release,
    calls.Release: reservations.release,
    calls.PostRoot: reservations.post_root,
    calls.Claim: reservations.claim,
    calls.ClaimCredit: reservations.claim_credit,
    calls.SlashNode: slashing.slash_node,
    calls.SlashCoordinator: slashing.slash_coordinator,
    calls.Challenge: arbitration.challenge,
    calls.DrawPanel: arbitration.draw_panel,
    calls.CommitVote: arbitration.commit_vote,
    calls.RevealVote: arbitration.reveal_vote,
    calls.Resolve: arbitration.resolve,
}


_LONGEST_PERIOD = 3650 * 86400
_AMOUNTS = frozenset({"min_stake", "challenge_bond"})
_POSITIVE = _AMOUNTS | {"draw_delay_blocks", "commit_period_s", "reveal_period_s"}


def genesis(domain: Domain, terms: Terms, issuer: bytes) -> State:
    """A ledger in which nothing has happened. Raises `InvalidField` for terms that the contract would not take."""
    for field, value in zip(fields(terms), astuple(terms), strict=True):
        if field.name in _POSITIVE and value == 0:
            raise InvalidField(field.name, "is zero")
        if field.name not in _AMOUNTS and value > _LONGEST_PERIOD:
            raise InvalidField(field.name, f"{value} is above {_LONGEST_PERIOD}, ten years of seconds")
    if terms.unbonding_s <= terms.challenge_window_s + terms.audit_retention_s:
        raise InvalidField("unbonding_s", "a stake must outlast challenge window and audit retention together")
    if terms.release_delay_s < terms.challenge_window_s:
        raise InvalidField("release_delay_s", "a reservation must outlast the challenge window")
    return State(domain, terms, issuer)


def apply(state: State, sender: bytes, call: JournalCall, when: Moment) -> tuple[State, tuple[Event, ...]]:
    """The state after `call` of `sender`, and what happened; positions of the events count from 0.

    Raises `Refused` with the contract's error name; `state` then still holds.
    """
    draft = Draft(state, sender, when)
    _RULES[type(call)](draft, call)
    return draft.state, tuple(draft.events)
