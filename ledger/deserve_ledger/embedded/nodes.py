"""Nodes and their stakes: registered by their operator, left slowly, lost at once."""

from __future__ import annotations

from dataclasses import replace

from deserve_ledger import identifiers
from deserve_ledger.calls import AddStake, BeginUnbond, RegisterNode, WithdrawStake
from deserve_ledger.embedded.draft import Draft, require
from deserve_ledger.messages import BindNode
from deserve_ledger.records import NodeRecord

__all__ = ["add_stake", "begin_unbond", "find_node", "keep_node", "register_node", "strike_auditor", "withdraw_stake"]


def find_node(draft: Draft, node_id: bytes) -> NodeRecord:
    return draft.state.nodes.get(node_id, NodeRecord())


def keep_node(draft: Draft, node_id: bytes, record: NodeRecord) -> None:
    draft.set(nodes=draft.state.nodes.insert(node_id, record))


def strike_auditor(draft: Draft, node_id: bytes) -> None:
    """Take a node off the list that panels are drawn from; the last one takes its place, as in the contract."""
    auditors = draft.state.auditors
    if node_id in auditors:
        at = auditors.index(node_id)
        moved = (*auditors[:at], auditors[-1], *auditors[at + 1 :])
        draft.set(auditors=moved[:-1])


def _own_node(draft: Draft, node_id: bytes) -> NodeRecord:
    node = find_node(draft, node_id)
    require(node.operator == draft.sender, "NotOperator")
    return node


def register_node(draft: Draft, call: RegisterNode) -> None:
    node_id = identifiers.node_id(draft.sender, call.peer_key)
    require(node_id not in draft.state.nodes, "NodeExists")
    require(call.stake >= draft.state.terms.min_stake, "StakeTooSmall")
    bound = draft.signer(BindNode(draft.sender, call.peer_key, call.nonce), call.signature)
    require(bound == call.receipt_key, "WrongSigner")
    draft.take(draft.sender, call.stake)
    draft.add_totals(stakes=call.stake)
    keep_node(draft, node_id, NodeRecord(draft.sender, call.receipt_key, call.stake))
    draft.set(auditors=(*draft.state.auditors, node_id))
    draft.emit("NodeRegistered", nodeId=node_id, operator=draft.sender, peerKey=call.peer_key,
               receiptKey=call.receipt_key, stake=call.stake, nonce=call.nonce)  # fmt: skip


def add_stake(draft: Draft, call: AddStake) -> None:
    node = _own_node(draft, call.node_id)
    require(not node.slashed, "NodeIsSlashed")
    require(node.unbonds_at_s == 0, "AlreadyUnbonding")
    draft.take(draft.sender, call.amount)
    draft.add_totals(stakes=call.amount)
    keep_node(draft, call.node_id, replace(node, stake=node.stake + call.amount))
    draft.emit("StakeAdded", nodeId=call.node_id, operator=draft.sender, amount=call.amount)


def begin_unbond(draft: Draft, call: BeginUnbond) -> None:
    node = _own_node(draft, call.node_id)
    require(not node.slashed, "NodeIsSlashed")
    require(node.unbonds_at_s == 0, "AlreadyUnbonding")
    unbonds_at_s = draft.when.now_s + draft.state.terms.unbonding_s
    keep_node(draft, call.node_id, replace(node, unbonds_at_s=unbonds_at_s))
    strike_auditor(draft, call.node_id)
    draft.emit("UnbondBegun", nodeId=call.node_id, unbondsAt=unbonds_at_s)


def withdraw_stake(draft: Draft, call: WithdrawStake) -> None:
    node = _own_node(draft, call.node_id)
    require(node.unbonds_at_s > 0, "NotUnbonding")
    require(draft.when.now_s >= node.unbonds_at_s, "TooEarly")
    require(node.open_challenges == 0, "ChallengeOpen")
    draft.add_totals(stakes=-node.stake)
    draft.pay(node.operator, node.stake)
    keep_node(draft, call.node_id, replace(node, stake=0))
    draft.emit("StakeWithdrawn", nodeId=call.node_id, operator=draft.sender, amount=node.stake)
