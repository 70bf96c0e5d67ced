"""Three who agree slash or acquit; anything else leaves everybody with what it had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evm import Refused
from panels import SALT, commitment, resolve, seat, vote
from world import ACCUSED, DOUBTER, JOB, OPERATORS, PAYER, STAKE, STRANGER, TERMS, WORK, World

from deserve_ledger.calls import (
    BeginUnbond,
    CommitVote,
    DrawPanel,
    Resolve,
    RevealVote,
    Withdraw,
    WithdrawStake,
)

BOND = TERMS.challenge_bond


def gained(world: World, before: dict[str, int]) -> dict[str, int]:
    return {name: now - before[name] for name, now in world.balances().items() if now != before[name]}


def test_a_challenge_is_bonded_and_says_what_it_is_about(world: World) -> None:
    before = world.balances()
    done = world.submit(DOUBTER, world.doubt())
    assert gained(world, before) == {"doubter": -BOND}
    opened = world.challenge()
    assert (opened.challenger, opened.node_id, opened.work_id) == (DOUBTER.address, ACCUSED.node_id, WORK.work_id)
    assert (opened.job_id, opened.evidence, opened.bond, opened.resolved) == (JOB, b"\4" * 32, BOND, False)
    assert world.node(ACCUSED).open_challenges == 1
    assert done.events[0].fields == {
        "challengeId": 1,
        "challenger": DOUBTER.address,
        "nodeId": ACCUSED.node_id,
        "workId": WORK.work_id,
        "jobId": JOB,
        "inRoot": b"\1" * 32,
        "outRoot": b"\2" * 32,
        "units": 640,
        "evidence": b"\4" * 32,
        "bond": BOND,
        "drawBlock": world.evm.block + TERMS.draw_delay_blocks,
        "drawsUntil": world.evm.now_s + TERMS.commit_period_s + TERMS.reveal_period_s,
    }


def test_three_guilty_slash_and_the_bond_goes_back(world: World) -> None:
    before = world.balances()
    panel = seat(world, DOUBTER)
    vote(world, panel, "ggg")
    resolve(world, STRANGER)
    assert gained(world, before) == {"payer": 300, "doubter": 300}
    assert world.totals().burnt == STAKE - 600
    assert (world.node(ACCUSED).slashed, world.node(ACCUSED).open_challenges) == (True, 0)
    assert (world.challenge().guilty, world.challenge().bond, world.challenge().resolved) == (3, 0, True)


def test_a_cheat_that_challenges_itself_loses_two_fifths_at_least(world: World) -> None:
    before = world.balances()
    vote(world, seat(world, ACCUSED), "ggg")
    resolve(world, ACCUSED)
    assert gained(world, before) == {"payer": 300, ACCUSED.name: 300}


def test_three_not_guilty_share_the_bond(world: World) -> None:
    before = world.balances()
    panel = seat(world, DOUBTER)
    vote(world, panel, "nnn")
    resolve(world, STRANGER)
    assert gained(world, before) == {
        "doubter": -BOND,
        panel[0].name: 101,
        panel[1].name: 100,
        panel[2].name: 100,
    }
    assert world.node(ACCUSED).stake == STAKE


@pytest.mark.parametrize("verdicts", ["ggn", "gnn", "gg-", "nn-", "ggc", "nnc", "---", "ccc", "g--"])
def test_anything_else_ends_by_time_and_changes_nothing(world: World, verdicts: str) -> None:
    before = world.balances()
    vote(world, seat(world, DOUBTER), verdicts)
    if set(verdicts) & set("-c"):
        world.pass_s(TERMS.reveal_period_s - 1)
        with pytest.raises(Refused, match="TooEarly"):
            resolve(world, DOUBTER)
        world.pass_s(1)
    resolve(world, STRANGER)
    assert gained(world, before) == {}
    assert (world.node(ACCUSED).stake, world.node(ACCUSED).open_challenges) == (STAKE, 0)
    assert world.totals().bonds == 999


def test_a_challenge_is_resolved_once(world: World) -> None:
    vote(world, seat(world, DOUBTER), "nnn")
    resolve(world, STRANGER)
    for call in (Resolve(1), DrawPanel(1), CommitVote(1, ACCUSED.node_id, SALT)):
        with pytest.raises(Refused, match="AlreadyResolved"):
            world.submit(STRANGER, call)
    for call in (Resolve(2), DrawPanel(2)):
        with pytest.raises(Refused, match="UnknownChallenge"):
            world.submit(STRANGER, call)


def test_nothing_is_resolved_before_its_panel_is_heard(world: World) -> None:
    panel = seat(world, DOUBTER)
    with pytest.raises(Refused, match="TooEarly"):
        resolve(world, DOUBTER)
    vote(world, panel, "ggg")
    resolve(world, DOUBTER)


def test_one_challenge_at_a_time_for_a_node_and_work(world: World) -> None:
    world.submit(DOUBTER, world.doubt())
    with pytest.raises(Refused, match="ChallengeOpen"):
        world.submit(STRANGER, world.doubt())
    world.submit(STRANGER, world.doubt(replace(WORK, chunk=6)))
    world.submit(STRANGER, world.doubt(operator=OPERATORS[1]))
    world.pass_s(TERMS.commit_period_s + TERMS.reveal_period_s)
    resolve(world, STRANGER)
    assert world.node(ACCUSED).open_challenges == 1
    world.submit(STRANGER, world.doubt())
    assert world.ledger.read("challengeCount") == 4


def test_only_what_the_node_signed_is_challenged(world: World) -> None:
    call = world.doubt()
    with pytest.raises(Refused, match="WrongWork"):
        world.submit(DOUBTER, replace(call, work=replace(WORK, job_id=b"\1" * 32)))
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, replace(call, signature=world.sign(DOUBTER, call.receipt)))
    with pytest.raises(Refused, match="WrongSigner"):
        world.submit(DOUBTER, replace(call, receipt=replace(call.receipt, out_root=b"\3" * 32)))


def test_a_challenge_costs_its_bond(world: World) -> None:
    world.submit(DOUBTER, Withdraw(world.balance(DOUBTER) - BOND + 1))
    with pytest.raises(Refused, match="InsufficientBalance"):
        world.submit(DOUBTER, world.doubt())


def test_a_stake_stays_while_a_challenge_is_open_and_no_longer(world: World) -> None:
    world.submit(ACCUSED, BeginUnbond(ACCUSED.node_id))
    world.pass_s(TERMS.unbonding_s - 1)
    world.submit(DOUBTER, world.doubt())
    world.pass_s(1)
    with pytest.raises(Refused, match="ChallengeOpen"):
        world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    with pytest.raises(Refused, match="TooLate"):  # or challenges without end would keep it
        world.submit(DOUBTER, world.doubt(replace(WORK, chunk=6)))
    world.pass_s(TERMS.commit_period_s + TERMS.reveal_period_s)
    resolve(world, ACCUSED)
    world.submit(ACCUSED, WithdrawStake(ACCUSED.node_id))
    assert world.node(ACCUSED).stake == 0
    with pytest.raises(Refused, match="NothingStaked"):
        world.submit(DOUBTER, world.doubt())


def test_a_verdict_on_a_stake_that_two_receipts_took_only_returns_the_bond(world: World) -> None:
    panel = seat(world, DOUBTER)
    world.submit(STRANGER, world.contradiction())
    before = world.balances()
    vote(world, panel, "ggg")
    done = resolve(world, DOUBTER)
    assert gained(world, before) == {"doubter": BOND}
    assert [event.name for event in done.events] == ["ChallengeResolved"]


def test_votes_are_secret_until_all_are_in(world: World) -> None:
    panel = seat(world, DOUBTER)
    member = panel[0]
    reveal = RevealVote(1, member.node_id, True, SALT)
    world.submit(member, CommitVote(1, member.node_id, commitment(1, member.node_id, True)))
    with pytest.raises(Refused, match="AlreadyCommitted"):
        world.submit(member, CommitVote(1, member.node_id, commitment(1, member.node_id, False)))
    world.pass_s(TERMS.commit_period_s - 1)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(member, reveal)
    world.pass_s(1)
    with pytest.raises(Refused, match="TooLate"):
        world.submit(panel[1], CommitVote(1, panel[1].node_id, commitment(1, panel[1].node_id, True)))
    for wrong in (replace(reveal, guilty=False), replace(reveal, salt=b"\6" * 32)):
        with pytest.raises(Refused, match="WrongReveal"):
            world.submit(member, wrong)
    world.submit(member, reveal)
    with pytest.raises(Refused, match="WrongReveal"):
        world.submit(member, reveal)
    assert (world.challenge().guilty, world.challenge().acquitted) == (1, 0)


def test_a_vote_is_revealed_in_time_or_not_at_all(world: World) -> None:
    member = seat(world, DOUBTER)[0]
    world.submit(member, CommitVote(1, member.node_id, commitment(1, member.node_id, True)))
    world.pass_s(TERMS.commit_period_s + TERMS.reveal_period_s)
    with pytest.raises(Refused, match="TooLate"):
        world.submit(member, RevealVote(1, member.node_id, True, SALT))


def test_a_copied_commitment_cannot_be_revealed(world: World) -> None:
    honest, copier, _ = seat(world, DOUBTER)
    copied = commitment(1, honest.node_id, True)
    world.submit(honest, CommitVote(1, honest.node_id, copied))
    world.submit(copier, CommitVote(1, copier.node_id, copied))
    world.pass_s(TERMS.commit_period_s)
    with pytest.raises(Refused, match="WrongReveal"):
        world.submit(copier, RevealVote(1, copier.node_id, True, SALT))


def test_a_commitment_holds_for_its_challenge_alone(world: World) -> None:
    member = seat(world, DOUBTER)[0]
    world.submit(member, CommitVote(1, member.node_id, commitment(2, member.node_id, True)))
    world.pass_s(TERMS.commit_period_s)
    with pytest.raises(Refused, match="WrongReveal"):
        world.submit(member, RevealVote(1, member.node_id, True, SALT))


def test_only_the_panels_operators_vote(world: World) -> None:
    panel = seat(world, DOUBTER)
    outsider = next(operator for operator in OPERATORS[1:] if operator not in panel)
    member = panel[0]
    for party, node, reason in (
        (outsider, outsider, "NotOnPanel"),
        (ACCUSED, ACCUSED, "NotOnPanel"),
        (outsider, member, "NotOperator"),
        (PAYER, member, "NotOperator"),
    ):
        with pytest.raises(Refused, match=reason):
            world.submit(party, CommitVote(1, node.node_id, commitment(1, node.node_id, True)))
    world.submit(member, CommitVote(1, member.node_id, commitment(1, member.node_id, True)))
    world.pass_s(TERMS.commit_period_s)
    with pytest.raises(Refused, match="NotOperator"):
        world.submit(outsider, RevealVote(1, member.node_id, True, SALT))


def test_nobody_votes_before_the_draw(world: World) -> None:
    world.submit(DOUBTER, world.doubt())
    for node_id in (OPERATORS[1].node_id, bytes(32)):
        with pytest.raises(Refused, match=r"NotOnPanel|NotOperator"):
            world.submit(OPERATORS[1], CommitVote(1, node_id, SALT))


def test_a_panel_has_its_full_time_however_late_it_is_drawn(world: World) -> None:
    world.submit(DOUBTER, world.doubt())
    world.evm.mine(TERMS.draw_delay_blocks + 1)
    world.pass_s(TERMS.commit_period_s + TERMS.reveal_period_s - 1)
    done = world.submit(STRANGER, DrawPanel(1))
    commits_until_s = world.evm.now_s + TERMS.commit_period_s
    assert done.events[0].fields["commitsUntil"] == world.challenge().commits_until_s == commits_until_s
    assert world.challenge().reveals_until_s == commits_until_s + TERMS.reveal_period_s
