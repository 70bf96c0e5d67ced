"""Two signed statements that exclude each other cost whoever signed them all that it put up.

30 % goes to whoever shows them, 30 % to the party that was wronged, 40 % is burnt: a cheat that denounces itself still
loses two fifths, more where it is not its own victim.
"""

from __future__ import annotations

from dataclasses import replace

from deserve_ledger.calls import SlashCoordinator, SlashNode
from deserve_ledger.embedded.draft import ZERO_ADDRESS, Draft, require
from deserve_ledger.embedded.nodes import find_node, keep_node, strike_auditor
from deserve_ledger.records import CoordinatorRecord, JobRecord

__all__ = ["burn_node", "slash_coordinator", "slash_node"]

_DEAD = bytes(18) + b"\xde\xad"
_SHARE_PERCENT = 30


def slash_node(draft: Draft, call: SlashNode) -> None:
    one, other = call.first, call.second
    require(one.work_id == other.work_id == call.work.work_id, "WrongWork")
    require(one.node_id == other.node_id, "WrongNode")
    require(one != other, "SameContent")
    node = find_node(draft, one.node_id)
    require(node.operator != ZERO_ADDRESS, "UnknownNode")
    require(draft.signer(one, call.first_signature) == node.receipt_key, "WrongSigner")
    require(draft.signer(other, call.second_signature) == node.receipt_key, "WrongSigner")
    require(node.stake > 0, "NothingStaked")
    burn_node(draft, one.node_id, call.work.job_id, draft.sender)


def burn_node(draft: Draft, node_id: bytes, job_id: bytes, accuser: bytes) -> None:
    """The whole stake of a node, unbonding or not; nobody registers under its id again."""
    node = find_node(draft, node_id)
    strike_auditor(draft, node_id)
    keep_node(draft, node_id, replace(node, stake=0, slashed=True))
    draft.add_totals(stakes=-node.stake)
    submitter = draft.state.jobs.get(job_id, JobRecord()).payer
    burnt = _share(draft, node.stake, accuser, submitter)
    draft.emit("NodeSlashed", nodeId=node_id, accuser=accuser, submitter=submitter, amount=node.stake, burnt=burnt)


def slash_coordinator(draft: Draft, call: SlashCoordinator) -> None:
    one, other = call.first, call.second
    require(one.coordinator == other.coordinator, "WrongCoordinator")
    require(one.node_id == other.node_id, "WrongNode")
    require(one.seq == other.seq, "WrongSeq")
    require(one != other, "SameContent")
    require(draft.signer(one, call.first_signature) == one.coordinator, "WrongSigner")
    require(draft.signer(other, call.second_signature) == one.coordinator, "WrongSigner")
    bonded = draft.state.coordinators.get(one.coordinator, CoordinatorRecord())
    require(bonded.bond > 0, "NothingBonded")
    changed = replace(bonded, bond=0, slashed=True)
    draft.set(coordinators=draft.state.coordinators.insert(one.coordinator, changed))
    draft.add_totals(bonds=-bonded.bond)
    injured = find_node(draft, one.node_id).operator
    burnt = _share(draft, bonded.bond, draft.sender, injured)
    draft.emit(
        "CoordinatorSlashed",
        coordinator=one.coordinator,
        accuser=draft.sender,
        injured=injured,
        amount=bonded.bond,
        burnt=burnt,
    )


def _share(draft: Draft, amount: int, accuser: bytes, injured: bytes) -> int:
    """What is burnt: all that nobody gets, the rest of each division with it."""
    share = amount * _SHARE_PERCENT // 100
    draft.pay(accuser, share)
    burnt = amount - share
    if injured != ZERO_ADDRESS:
        draft.pay(injured, share)
        burnt -= share
    draft.add_totals(burnt=burnt)
    tokens = draft.state.tokens
    draft.set(tokens=tokens.insert(_DEAD, tokens.get(_DEAD, 0) + burnt))
    return burnt
