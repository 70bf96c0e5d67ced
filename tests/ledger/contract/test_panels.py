"""Who sits on a panel: by stake, by a seed that comes later, and nobody who has a side."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from evm import Refused
from panels import auditors_of, draw, seed_of
from world import ACCUSED, DOUBTER, OPERATORS, STAKE, STRANGER, TERMS, World

from deserve_ledger.calls import AddStake, BeginUnbond, DrawPanel, Resolve
from deserve_ledger.identifiers import node_id
from deserve_ledger.messages import BindNode


def test_the_contract_draws_as_written_down(world: World) -> None:
    world.submit(OPERATORS[2], AddStake(OPERATORS[2].node_id, 7 * STAKE))
    world.submit(OPERATORS[3], AddStake(OPERATORS[3].node_id, 40 * STAKE))
    auditors = auditors_of(world)
    full = 0
    for block in range(8):
        with world.undone():
            world.evm.mine(block)
            seed = seed_of(world)
            world.submit(DOUBTER, world.doubt())
            world.evm.mine(TERMS.draw_delay_blocks + 1)
            done = world.submit(STRANGER, DrawPanel(1))
            expected = draw(seed, 1, auditors, ACCUSED.address, DOUBTER.address)
            if len(expected) == 3:
                full += 1
                assert list(world.challenge().panel) == expected
                assert [done.events[0].fields[seat] for seat in ("first", "second", "third")] == expected
            else:
                assert done.events[0].name == "DrawPostponed"
    assert full >= 5


def test_seats_go_by_stake_up_to_sixteen_minimum_stakes() -> None:
    # One auditor has 1, 4, 16 and 64 minimum stakes each; first seats of 4000 draws.
    stakes = {b"one": 1, b"four": 4, b"sixteen": 16, b"many": 64}
    auditors = [(name, name, stake * TERMS.min_stake) for name, stake in stakes.items()]
    first = Counter(draw(number.to_bytes(32, "big"), 1, auditors, b"", b"")[0] for number in range(4000))
    weights = {b"one": 1, b"four": 4, b"sixteen": 16, b"many": 16}
    for name, weight in weights.items():
        expected = 4000 * weight / 37
        assert abs(first[name] - expected) < 5 * expected**0.5


def test_the_accused_and_the_challenger_do_not_sit(world: World) -> None:
    # Of five operators three are left, whatever the seed.
    doubter = OPERATORS[4]
    others = {operator.node_id for operator in OPERATORS[1:4]}
    panels = 0
    for block in range(4):
        with world.undone():
            world.evm.mine(block)
            world.submit(doubter, world.doubt())
            world.evm.mine(TERMS.draw_delay_blocks + 1)
            world.submit(doubter, DrawPanel(1))
            panel = world.challenge().panel
            if panel[0] != bytes(32):
                panels += 1
                assert set(panel) == others
    assert panels > 0


def test_an_operator_sits_once_however_many_nodes_it_has(world: World) -> None:
    # Three operators besides the accused and the challenger, of which two go: what one has left is not enough.
    for leaver in OPERATORS[2:4]:
        world.submit(leaver, BeginUnbond(leaver.node_id))
    many = OPERATORS[1]
    for number in range(3):
        peer_key = bytes([number]) * 32
        signature = world.sign(many.receipts, BindNode(many.address, peer_key, 0))
        world.submit(many, replace(world.bind(many), peer_key=peer_key, signature=signature))
        assert node_id(many.address, peer_key) in world.auditors()
    world.submit(OPERATORS[4], world.doubt())
    for _ in range(3):
        world.evm.mine(TERMS.draw_delay_blocks + 1)
        assert world.submit(STRANGER, DrawPanel(1)).events[0].name == "DrawPostponed"
    assert world.challenge().panel[0] == bytes(32)


def test_nobody_sits_that_unbonds(world: World) -> None:
    leaver = OPERATORS[2]
    world.submit(leaver, BeginUnbond(leaver.node_id))
    for block in range(4):
        with world.undone():
            world.evm.mine(block)
            world.submit(DOUBTER, world.doubt())
            world.evm.mine(TERMS.draw_delay_blocks + 1)
            world.submit(DOUBTER, DrawPanel(1))
            assert leaver.node_id not in world.challenge().panel


def test_the_seed_is_of_a_block_after_the_challenge(world: World) -> None:
    world.submit(DOUBTER, world.doubt())
    world.evm.mine(TERMS.draw_delay_blocks)
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(DOUBTER, DrawPanel(1))
    world.evm.mine(1)
    world.submit(DOUBTER, DrawPanel(1))


@pytest.mark.parametrize(("late", "drawn"), [(256, True), (257, False)])
def test_a_seed_that_the_chain_forgot_is_replaced_by_a_later_one(world: World, late: int, drawn: bool) -> None:
    seed = seed_of(world)
    full = len(draw(seed, 1, auditors_of(world), ACCUSED.address, DOUBTER.address)) == 3
    assert full
    world.submit(DOUBTER, world.doubt())
    world.evm.mine(TERMS.draw_delay_blocks + late)
    done = world.submit(STRANGER, DrawPanel(1))
    if drawn:
        assert done.events[0].name == "PanelDrawn"
        return
    assert done.events[0].fields == {"challengeId": 1, "drawBlock": world.evm.block + TERMS.draw_delay_blocks}
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(STRANGER, DrawPanel(1))


def test_a_panel_is_drawn_once(world: World) -> None:
    world.submit(DOUBTER, world.doubt())
    world.evm.mine(TERMS.draw_delay_blocks + 1)
    world.submit(DOUBTER, DrawPanel(1))
    with pytest.raises(Refused, match="AlreadyDrawn"):
        world.submit(DOUBTER, DrawPanel(1))


def test_without_three_auditors_a_challenge_ends_undrawn_and_the_bond_goes_back(world: World) -> None:
    before = world.balance(DOUBTER)
    for operator in OPERATORS[1:4]:
        world.submit(operator, BeginUnbond(operator.node_id))
    world.submit(DOUBTER, world.doubt())
    world.evm.mine(TERMS.draw_delay_blocks + 1)
    assert world.submit(STRANGER, DrawPanel(1)).events[0].name == "DrawPostponed"
    with pytest.raises(Refused, match="TooEarly"):
        world.submit(STRANGER, Resolve(1))
    world.pass_s(TERMS.commit_period_s + TERMS.reveal_period_s)
    world.evm.mine(TERMS.draw_delay_blocks + 1)
    with pytest.raises(Refused, match="TooLate"):
        world.submit(STRANGER, DrawPanel(1))
    world.submit(STRANGER, Resolve(1))
    assert world.balance(DOUBTER) == before
    assert world.node(ACCUSED).stake == STAKE
