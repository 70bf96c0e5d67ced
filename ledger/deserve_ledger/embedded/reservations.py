"""Collateral of one coordinator for one node, and what the node is paid out of it.

Roots and credits say the same in two ways and share one cumulative sum, so that neither pays what the other has paid.
"""

from __future__ import annotations

from dataclasses import replace

from deserve_ledger import merkle
from deserve_ledger.calls import Claim, ClaimCredit, PostRoot, Release, RequestRelease, Reserve
from deserve_ledger.embedded.draft import ZERO_ADDRESS, ZERO_WORD, Draft, require
from deserve_ledger.embedded.nodes import find_node
from deserve_ledger.records import Reservation

__all__ = ["claim", "claim_credit", "post_root", "release", "request_release", "reserve"]


def _find(draft: Draft, coordinator: bytes, node_id: bytes) -> Reservation:
    return draft.state.reservations.get((coordinator, node_id), Reservation())


def _keep(draft: Draft, coordinator: bytes, node_id: bytes, record: Reservation) -> None:
    draft.set(reservations=draft.state.reservations.insert((coordinator, node_id), record))


def reserve(draft: Draft, call: Reserve) -> None:
    require(find_node(draft, call.node_id).operator != ZERO_ADDRESS, "UnknownNode")
    held = _find(draft, draft.sender, call.node_id)
    draft.take(draft.sender, call.amount)
    draft.add_totals(reservations=call.amount)
    _keep(draft, draft.sender, call.node_id, replace(held, amount=held.amount + call.amount))
    draft.emit("Reserved", coordinator=draft.sender, nodeId=call.node_id, amount=call.amount)


def request_release(draft: Draft, call: RequestRelease) -> None:
    held = _find(draft, draft.sender, call.node_id)
    require(call.amount <= held.amount, "InsufficientReservation")
    releases_at_s = draft.when.now_s + draft.state.terms.release_delay_s
    changed = replace(held, releasing=call.amount, releases_at_s=releases_at_s)
    _keep(draft, draft.sender, call.node_id, changed)
    draft.emit("ReleaseRequested", coordinator=draft.sender, nodeId=call.node_id, amount=call.amount,
               releasesAt=releases_at_s)  # fmt: skip


def release(draft: Draft, call: Release) -> None:
    held = _find(draft, draft.sender, call.node_id)
    require(held.releasing > 0, "NothingToRelease")
    require(draft.when.now_s >= held.releases_at_s, "TooEarly")
    amount = held.releasing
    draft.add_totals(reservations=-amount)
    draft.pay(draft.sender, amount)
    changed = replace(held, amount=held.amount - amount, releasing=0, releases_at_s=0)
    _keep(draft, draft.sender, call.node_id, changed)
    draft.emit("Released", coordinator=draft.sender, nodeId=call.node_id, amount=amount)


def post_root(draft: Draft, call: PostRoot) -> None:
    require(call.root != ZERO_WORD, "ZeroRoot")
    require((draft.sender, call.epoch) not in draft.state.roots, "RootExists")
    draft.set(roots=draft.state.roots.insert((draft.sender, call.epoch), call.root))
    draft.emit("RootPosted", coordinator=draft.sender, epoch=call.epoch, root=call.root)


def claim(draft: Draft, call: Claim) -> None:
    root = draft.state.roots.get((call.coordinator, call.epoch), ZERO_WORD)
    require(root != ZERO_WORD, "UnknownRoot")
    leaf = merkle.claim_leaf(call.coordinator, call.epoch, call.node_id, call.cumulative)
    require(merkle.verify(root, leaf, call.proof), "BadProof")
    _pay_node(draft, call.coordinator, call.node_id, call.cumulative)


def claim_credit(draft: Draft, call: ClaimCredit) -> None:
    credit = call.credit
    require(draft.signer(credit, call.signature) == credit.coordinator, "WrongSigner")
    _pay_node(draft, credit.coordinator, credit.node_id, credit.cumulative)


def _pay_node(draft: Draft, coordinator: bytes, node_id: bytes, cumulative: int) -> None:
    """Pay what of `cumulative` has not been paid and is covered; the rest stays owed until more is reserved."""
    operator = find_node(draft, node_id).operator
    require(operator != ZERO_ADDRESS, "UnknownNode")
    held = _find(draft, coordinator, node_id)
    paid = min(max(0, cumulative - held.claimed), held.amount)
    draft.add_totals(reservations=-paid)
    draft.pay(operator, paid)
    amount = held.amount - paid
    # The contract leaves this to whoever reads, for gas; what is read is the same.
    changed = replace(held, amount=amount, releasing=min(held.releasing, amount), claimed=held.claimed + paid)
    _keep(draft, coordinator, node_id, changed)
    draft.emit("Claimed", coordinator=coordinator, nodeId=node_id, operator=operator, amount=paid)
