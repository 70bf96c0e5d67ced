"""A bonded challenge and its panel: three votes, hidden until all are cast; only unanimity has consequences.

Every challenge ends by time, whoever stays silent: at the latest when its reveals are over, or, where no panel could be
drawn, when they would have been.
"""

from __future__ import annotations

from dataclasses import replace

from eth_hash.auto import keccak

from deserve_ledger.calls import Challenge, CommitVote, DrawPanel, Resolve, RevealVote
from deserve_ledger.embedded.draft import ZERO_WORD, Draft, require
from deserve_ledger.embedded.nodes import find_node, keep_node
from deserve_ledger.embedded.panel import SEATS, draw
from deserve_ledger.embedded.slashing import burn_node
from deserve_ledger.embedded.state import Arbitration
from deserve_ledger.errors import Refused
from deserve_ledger.records import ChallengeRecord

__all__ = ["challenge", "commit_vote", "draw_panel", "resolve", "reveal_vote"]

_UNDRAWN = (ZERO_WORD,) * SEATS


def challenge(draft: Draft, call: Challenge) -> None:
    receipt, terms, when = call.receipt, draft.state.terms, draft.when
    require(receipt.work_id == call.work.work_id, "WrongWork")
    node = find_node(draft, receipt.node_id)
    require(node.stake > 0, "NothingStaked")
    # Otherwise challenges without end could keep a stake from ever leaving.
    require(node.unbonds_at_s == 0 or when.now_s < node.unbonds_at_s, "TooLate")
    doubted = (receipt.node_id, receipt.work_id)
    require(doubted not in draft.state.challenged, "ChallengeOpen")
    require(draft.signer(receipt, call.signature) == node.receipt_key, "WrongSigner")
    draft.take(draft.sender, terms.challenge_bond)
    draft.add_totals(bonds=terms.challenge_bond)
    challenge_id = len(draft.state.arbitrations) + 1
    draws_until_s = when.now_s + terms.commit_period_s + terms.reveal_period_s
    record = ChallengeRecord(
        challenger=draft.sender,
        node_id=receipt.node_id,
        work_id=receipt.work_id,
        job_id=call.work.job_id,
        evidence=call.evidence,
        bond=terms.challenge_bond,
        reveals_until_s=draws_until_s,
    )
    draw_block = when.block + terms.draw_delay_blocks
    keep_node(draft, receipt.node_id, replace(node, open_challenges=node.open_challenges + 1))
    draft.set(challenged=draft.state.challenged.insert(doubted, challenge_id))
    _keep(draft, challenge_id, Arbitration(record, draw_block))
    draft.emit(
        "Challenged",
        challengeId=challenge_id,
        challenger=draft.sender,
        nodeId=receipt.node_id,
        workId=receipt.work_id,
        jobId=call.work.job_id,
        inRoot=receipt.in_root,
        outRoot=receipt.out_root,
        units=receipt.units,
        evidence=call.evidence,
        bond=terms.challenge_bond,
        drawBlock=draw_block,
        drawsUntil=draws_until_s,
    )


def _keep(draft: Draft, challenge_id: int, arbitration: Arbitration) -> None:
    draft.set(arbitrations=draft.state.arbitrations.insert(challenge_id, arbitration))


def _unresolved(draft: Draft, challenge_id: int) -> Arbitration:
    found = draft.state.arbitrations.get(challenge_id)
    if found is None:
        raise Refused("UnknownChallenge")
    require(not found.record.resolved, "AlreadyResolved")
    return found


def draw_panel(draft: Draft, call: DrawPanel) -> None:
    opened = _unresolved(draft, call.challenge_id)
    record, terms, when = opened.record, draft.state.terms, draft.when
    require(not record.panel, "AlreadyDrawn")
    require(when.now_s < record.reveals_until_s, "TooLate")
    require(when.block > opened.draw_block, "TooEarly")
    panel = None
    if when.entropy != ZERO_WORD:
        excluded = frozenset({find_node(draft, record.node_id).operator, record.challenger})
        auditors, nodes = draft.state.auditors, draft.state.nodes
        panel = draw(when.entropy, call.challenge_id, auditors, nodes, terms.min_stake, excluded)
    if panel is None:
        draw_block = when.block + terms.draw_delay_blocks
        _keep(draft, call.challenge_id, replace(opened, draw_block=draw_block))
        draft.emit("DrawPostponed", challengeId=call.challenge_id, drawBlock=draw_block)
        return
    commits_until_s = when.now_s + terms.commit_period_s
    reveals_until_s = commits_until_s + terms.reveal_period_s
    drawn = replace(record, panel=panel, commits_until_s=commits_until_s, reveals_until_s=reveals_until_s)
    _keep(draft, call.challenge_id, replace(opened, record=drawn))
    first, second, third = panel
    draft.emit(
        "PanelDrawn",
        challengeId=call.challenge_id,
        first=first,
        second=second,
        third=third,
        commitsUntil=commits_until_s,
        revealsUntil=reveals_until_s,
    )


def _seat(draft: Draft, challenge_id: int, node_id: bytes) -> Arbitration:
    """The challenge, if the sender votes in it for the node."""
    opened = _unresolved(draft, challenge_id)
    require(node_id in (opened.record.panel or _UNDRAWN), "NotOnPanel")
    require(find_node(draft, node_id).operator == draft.sender, "NotOperator")
    return opened


def commit_vote(draft: Draft, call: CommitVote) -> None:
    opened = _seat(draft, call.challenge_id, call.node_id)
    seat, commitments = (call.challenge_id, call.node_id), draft.state.commitments
    require(draft.when.now_s < opened.record.commits_until_s, "TooLate")
    require(commitments.get(seat, ZERO_WORD) == ZERO_WORD, "AlreadyCommitted")
    draft.set(commitments=commitments.insert(seat, call.commitment))
    draft.emit("VoteCommitted", challengeId=call.challenge_id, nodeId=call.node_id, commitment=call.commitment)


def reveal_vote(draft: Draft, call: RevealVote) -> None:
    opened = _seat(draft, call.challenge_id, call.node_id)
    record, now_s = opened.record, draft.when.now_s
    seat, commitments = (call.challenge_id, call.node_id), draft.state.commitments
    require(now_s >= record.commits_until_s, "TooEarly")
    require(now_s < record.reveals_until_s, "TooLate")
    words = (call.challenge_id.to_bytes(32, "big"), call.node_id, call.guilty.to_bytes(32, "big"), call.salt)
    require(keccak(b"".join(words)) == commitments.get(seat, ZERO_WORD), "WrongReveal")
    draft.set(commitments=commitments.remove(seat))
    guilty, acquitted = record.guilty + call.guilty, record.acquitted + (not call.guilty)
    _keep(draft, call.challenge_id, replace(opened, record=replace(record, guilty=guilty, acquitted=acquitted)))
    draft.emit("VoteRevealed", challengeId=call.challenge_id, nodeId=call.node_id, guilty=call.guilty)


def resolve(draft: Draft, call: Resolve) -> None:
    opened = _unresolved(draft, call.challenge_id)
    record = opened.record
    decided = record.guilty + record.acquitted == SEATS
    require(decided or draft.when.now_s >= record.reveals_until_s, "TooEarly")
    _keep(draft, call.challenge_id, replace(opened, record=replace(record, bond=0, resolved=True)))
    draft.set(challenged=draft.state.challenged.remove((record.node_id, record.work_id)))
    node = find_node(draft, record.node_id)
    keep_node(draft, record.node_id, replace(node, open_challenges=node.open_challenges - 1))
    draft.add_totals(bonds=-record.bond)
    if record.acquitted == SEATS:
        _pay_panel(draft, record)
    else:
        draft.pay(record.challenger, record.bond)
    draft.emit(
        "ChallengeResolved",
        challengeId=call.challenge_id,
        guilty=record.guilty,
        acquitted=record.acquitted,
        bond=record.bond,
    )
    # Its stake may be gone by two receipts or another panel's verdict.
    if record.guilty == SEATS and node.stake > 0:
        burn_node(draft, record.node_id, record.job_id, record.challenger)


def _pay_panel(draft: Draft, record: ChallengeRecord) -> None:
    """In equal parts; the first of the panel also gets what does not divide."""
    share = record.bond // SEATS
    first, *others = (find_node(draft, node_id).operator for node_id in record.panel)
    draft.pay(first, record.bond - share * len(others))
    for operator in others:
        draft.pay(operator, share)
