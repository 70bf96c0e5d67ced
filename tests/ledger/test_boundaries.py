"""To the second and to the block: when something begins and ends to be possible, the same on both ledgers."""

from __future__ import annotations

from typing import Any

import pytest
from eth_hash.auto import keccak
from ledger_backends import Both, Known
from ledger_parties import (
    ACCOUNTS,
    KEYS,
    PARTIES,
    SESSION,
    TERMS,
    Signatures,
    address_of,
    node_of,
    peer_key,
    receipt_key,
    work_of,
)

from deserve_ledger import calls
from deserve_ledger.identifiers import job_id

PAYER, COORDINATOR, OPERATOR = 0, 1, 2
EVERYBODY = range(PARTIES)


class Ledger:
    """Both, with a node of each of the first `operators` parties."""

    def __init__(self, operators: int = PARTIES) -> None:
        self.both = Both()
        self.signed = Signatures(self.both.domain)
        self.known = Known({node_of(i) for i in EVERYBODY})
        for operator in range(operators):
            bound = self.signed.bind(operator, 0, 1, receipt_key(0))
            registered = calls.RegisterNode(peer_key(0), address_of(receipt_key(0)), 1600, 1, bound)
            self.does(operator, registered)

    def does(self, who: int, call: calls.Call) -> list[tuple[str, dict[str, Any]]]:
        outcome = self.both.submit(ACCOUNTS[who], call)
        assert outcome[0] == "done", outcome
        events: list[tuple[str, dict[str, Any]]] = outcome[1]
        return events

    def is_refused(self, who: int, call: calls.Call) -> str:
        outcome = self.both.submit(ACCOUNTS[who], call)
        assert outcome[0] == "refused", outcome
        return str(outcome[1])

    def wait(self, seconds: int, blocks: int = 0) -> None:
        self.both.pass_time(seconds, blocks)

    def only_from(self, seconds: int, who: int, call: calls.Call) -> None:
        """Possible `seconds` from now, and too early a second before."""
        self.wait(seconds - 1)
        assert self.is_refused(who, call) == "TooEarly"
        self.wait(1)
        self.does(who, call)

    def challenge(self, of: int = OPERATOR, chunk: int = 1, who: int = PAYER) -> int:
        work = work_of(job_id(ACCOUNTS[PAYER], bytes(32)), chunk)
        signed = self.signed.receipt(work, node_of(of), 64, receipt_key(0))
        return int(self.does(who, calls.Challenge(work, *signed, bytes(32)))[0][1]["challengeId"])

    def draw(self, challenge_id: int = 1) -> tuple[bytes, ...]:
        self.wait(0, TERMS.draw_delay_blocks + 1)
        self.does(PAYER, calls.DrawPanel(challenge_id))
        return self.both.view(Known(set(), challenges=challenge_id)).challenges[challenge_id].panel


def vote(node: bytes, guilty: bool = True) -> tuple[int, calls.CommitVote, calls.RevealVote]:
    """Of a node's operator on challenge 1: who, the commitment, its opening."""
    words = ((1).to_bytes(32, "big"), node, guilty.to_bytes(32, "big"), bytes(32))
    who = next(i for i in EVERYBODY if node_of(i) == node)
    return who, calls.CommitVote(1, node, keccak(b"".join(words))), calls.RevealVote(1, node, guilty, bytes(32))


def test_a_reservation_is_released_after_its_delay():
    ledger = Ledger()
    ledger.does(COORDINATOR, calls.Reserve(node_of(OPERATOR), 90))
    ledger.does(COORDINATOR, calls.RequestRelease(node_of(OPERATOR), 50))
    ledger.only_from(TERMS.release_delay_s, COORDINATOR, calls.Release(node_of(OPERATOR)))
    ledger.does(COORDINATOR, calls.RequestRelease(node_of(OPERATOR), 10))
    ledger.wait(TERMS.release_delay_s - 1)
    ledger.does(COORDINATOR, calls.RequestRelease(node_of(OPERATOR), 40))
    ledger.only_from(TERMS.release_delay_s, COORDINATOR, calls.Release(node_of(OPERATOR)))
    assert ledger.is_refused(COORDINATOR, calls.Release(node_of(OPERATOR))) == "NothingToRelease"


def test_what_was_announced_and_then_claimed_does_not_take_what_is_reserved_anew():
    ledger = Ledger()
    node = node_of(OPERATOR)
    ledger.does(COORDINATOR, calls.Reserve(node, 100))
    ledger.does(COORDINATOR, calls.RequestRelease(node, 80))
    ledger.does(OPERATOR, calls.ClaimCredit(*ledger.signed.credit(COORDINATOR, node, 70, 1, KEYS[COORDINATOR])))
    ledger.does(COORDINATOR, calls.Reserve(node, 200))
    ledger.wait(TERMS.release_delay_s)
    assert ledger.does(COORDINATOR, calls.Release(node))[0][1]["amount"] == 30


def test_a_stake_leaves_after_unbonding_and_a_bond_likewise():
    ledger = Ledger()
    ledger.does(COORDINATOR, calls.AddBond(10))
    ledger.does(COORDINATOR, calls.BeginBondRelease())
    assert ledger.is_refused(COORDINATOR, calls.BeginBondRelease()) == "AlreadyUnbonding"
    ledger.does(OPERATOR, calls.BeginUnbond(node_of(OPERATOR)))
    ledger.only_from(TERMS.unbonding_s, OPERATOR, calls.WithdrawStake(node_of(OPERATOR)))
    ledger.does(COORDINATOR, calls.WithdrawBond())
    ledger.does(COORDINATOR, calls.AddBond(10))
    ledger.does(COORDINATOR, calls.BeginBondRelease())
    ledger.only_from(TERMS.unbonding_s, COORDINATOR, calls.WithdrawBond())


def test_a_stake_waits_for_its_challenges_and_is_challenged_no_more_once_it_may_leave():
    ledger = Ledger()
    ledger.does(OPERATOR, calls.BeginUnbond(node_of(OPERATOR)))
    ledger.wait(TERMS.unbonding_s - 1)
    ledger.challenge()
    ledger.wait(1)
    assert ledger.is_refused(OPERATOR, calls.WithdrawStake(node_of(OPERATOR))) == "ChallengeOpen"
    work = work_of(job_id(ACCOUNTS[PAYER], bytes(32)), 2)
    late = ledger.signed.receipt(work, node_of(OPERATOR), 64, receipt_key(0))
    assert ledger.is_refused(PAYER, calls.Challenge(work, *late, bytes(32))) == "TooLate"
    ledger.only_from(TERMS.commit_period_s + TERMS.reveal_period_s - 1, PAYER, calls.Resolve(1))
    ledger.does(OPERATOR, calls.WithdrawStake(node_of(OPERATOR)))


def test_a_job_is_open_for_a_year_at_most_and_refunded_after_its_grace():
    ledger = Ledger()
    now_s = ledger.both.now_s

    def opened(salt: int, deadline_s: int) -> calls.OpenJob:
        return calls.OpenJob(bytes([salt]) * 32, ACCOUNTS[COORDINATOR], SESSION, 10, deadline_s)

    for deadline_s in (0, now_s, now_s + 365 * 86400 + 1):
        assert ledger.is_refused(PAYER, opened(1, deadline_s)) == "BadDeadline"
    ledger.does(PAYER, opened(1, now_s + 1))
    ledger.does(PAYER, opened(2, now_s + 365 * 86400))
    ledger.only_from(TERMS.refund_grace_s + 2, OPERATOR, calls.Refund(job_id(ACCOUNTS[PAYER], b"\1" * 32)))
    ledger.does(COORDINATOR, calls.Refund(job_id(ACCOUNTS[PAYER], b"\2" * 32)))


def test_a_panel_is_drawn_after_its_block_while_that_is_known_and_before_its_time_is_over():
    ledger = Ledger()
    ledger.challenge()
    ledger.wait(0, TERMS.draw_delay_blocks)
    assert ledger.is_refused(PAYER, calls.DrawPanel(1)) == "TooEarly"
    ledger.wait(0, 257)
    assert ledger.does(PAYER, calls.DrawPanel(1))[0][0] == "DrawPostponed"
    ledger.wait(0, TERMS.draw_delay_blocks)
    assert ledger.is_refused(PAYER, calls.DrawPanel(1)) == "TooEarly"
    ledger.wait(TERMS.commit_period_s + TERMS.reveal_period_s - 1, 1)
    panel = ledger.draw()
    assert len(set(panel)) == 3
    assert not set(panel) & {node_of(OPERATOR), node_of(PAYER)}
    assert ledger.is_refused(PAYER, calls.DrawPanel(1)) == "AlreadyDrawn"
    ledger.challenge(chunk=2)
    ledger.wait(TERMS.commit_period_s + TERMS.reveal_period_s, 5)
    assert ledger.is_refused(PAYER, calls.DrawPanel(2)) == "TooLate"
    ledger.does(PAYER, calls.Resolve(2))


@pytest.mark.parametrize("how", ["slashed", "unbonding"])
def test_who_is_slashed_or_leaves_judges_nobody(how):
    ledger = Ledger(operators=5)
    gone = node_of(4)
    if how == "unbonding":
        ledger.does(4, calls.BeginUnbond(gone))
    else:
        work = work_of(bytes(32), 9)
        receipts = [ledger.signed.receipt(work, gone, units, receipt_key(0)) for units in (1, 2)]
        ledger.does(PAYER, calls.SlashNode(work, *receipts[0], *receipts[1]))
    ledger.challenge()
    ledger.wait(0, TERMS.draw_delay_blocks + 1)
    assert ledger.does(PAYER, calls.DrawPanel(1))[0][0] == "DrawPostponed"


def test_votes_are_cast_then_opened_then_counted_each_in_its_time():
    ledger = Ledger()
    ledger.challenge()
    (one, commits, reveals), (other, late, _), (third, third_commits, third_reveals) = map(vote, ledger.draw())
    ledger.wait(TERMS.commit_period_s - 1)
    assert ledger.is_refused(third, commits) == "NotOperator"
    assert ledger.is_refused(PAYER, calls.CommitVote(1, node_of(PAYER), bytes(32))) == "NotOnPanel"
    ledger.does(one, commits)
    ledger.does(third, third_commits)
    assert ledger.is_refused(one, commits) == "AlreadyCommitted"
    assert ledger.is_refused(one, reveals) == "TooEarly"
    ledger.wait(1)
    assert ledger.is_refused(other, late) == "TooLate"
    assert ledger.is_refused(one, vote(commits.node_id, guilty=False)[2]) == "WrongReveal"
    ledger.does(one, reveals)
    assert ledger.is_refused(one, reveals) == "WrongReveal"
    ledger.wait(TERMS.reveal_period_s - 1)
    assert ledger.is_refused(PAYER, calls.Resolve(1)) == "TooEarly"
    ledger.wait(1)
    assert ledger.is_refused(third, third_reveals) == "TooLate"
    before = ledger.both.view(ledger.known)
    ledger.does(PAYER, calls.Resolve(1))
    after = ledger.both.view(ledger.known)
    assert after.balances[ACCOUNTS[PAYER]] - before.balances[ACCOUNTS[PAYER]] == TERMS.challenge_bond
    assert after.nodes[node_of(OPERATOR)].stake == 1600


@pytest.mark.parametrize("guilty", [True, False])
def test_three_of_one_mind_decide(guilty):
    ledger = Ledger()
    ledger.challenge()
    panel = ledger.draw()
    votes = [vote(node, guilty) for node in panel]
    for who, commits, _ in votes:
        ledger.does(who, commits)
    ledger.wait(TERMS.commit_period_s)
    for who, _, reveals in votes:
        ledger.does(who, reveals)
    before = ledger.both.view(ledger.known)
    ledger.does(OPERATOR, calls.Resolve(1))
    after = ledger.both.view(ledger.known)
    ledger.both.compare(ledger.known)
    gained = {i: after.balances[ACCOUNTS[i]] - before.balances[ACCOUNTS[i]] for i in EVERYBODY}
    if guilty:
        assert after.nodes[node_of(OPERATOR)].slashed
        assert gained[PAYER] == TERMS.challenge_bond + 1600 * 30 // 100
        assert after.totals.burnt == 1600 - 1600 * 30 // 100
    else:
        first, *others = (who for who, _, _ in votes)
        assert gained[first] == TERMS.challenge_bond - 2 * (TERMS.challenge_bond // 3)
        assert all(gained[who] == TERMS.challenge_bond // 3 for who in others)


@pytest.mark.parametrize("how", ["slashed", "unbonding"])
def test_whoever_goes_leaves_the_others_in_the_same_places(how):
    """Who is drawn depends on the list's order, in which the last auditor takes the place of the one that went."""
    ledger = Ledger()
    if how == "unbonding":
        ledger.does(1, calls.BeginUnbond(node_of(1)))
    else:
        work = work_of(bytes(32), 9)
        receipts = [ledger.signed.receipt(work, node_of(1), units, receipt_key(0)) for units in (1, 2)]
        ledger.does(PAYER, calls.SlashNode(work, *receipts[0], *receipts[1]))
    for number in range(1, 5):
        ledger.challenge(chunk=number)
        assert set(ledger.draw(number)) == {node_of(i) for i in (3, 4, 5)}


def test_a_node_is_registered_only_with_its_receipt_keys_consent():
    ledger = Ledger(operators=0)
    for operator, number, nonce, key in ((0, 0, 1, 1), (1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 0)):
        signature = ledger.signed.bind(operator, number, nonce, receipt_key(key))
        registered = calls.RegisterNode(peer_key(0), address_of(receipt_key(0)), 1600, 1, signature)
        assert ledger.is_refused(0, registered) == "WrongSigner"
