"""The draw of a panel, written a second time, and what its members do."""

from __future__ import annotations

from eth_hash.auto import keccak
from evm import Done, block_hash
from world import EVERYBODY, TERMS, Party, World

from deserve_ledger.calls import CommitVote, DrawPanel, Resolve, RevealVote

SALT = b"\5" * 32


def draw(
    seed: bytes, challenge_id: int, auditors: list[tuple[bytes, bytes, int]], accused: bytes, challenger: bytes
) -> list[bytes]:
    """Ids of up to three nodes; an auditor is (node id, operator, stake)."""
    seated: dict[bytes, bytes] = {}
    for number in range(512):
        word = keccak(seed + challenge_id.to_bytes(32, "big") + number.to_bytes(32, "big"))
        node_id, operator, stake = auditors[int.from_bytes(word[:16], "big") % len(auditors)]
        if int.from_bytes(word[16:], "big") % (16 * TERMS.min_stake) >= stake:
            continue
        if operator in (accused, challenger) or operator in seated:
            continue
        seated[operator] = node_id
        if len(seated) == 3:
            break
    return list(seated.values())


def auditors_of(world: World) -> list[tuple[bytes, bytes, int]]:
    records = ((node_id, world.ledger.read("nodeOf", node_id)) for node_id in world.auditors())
    return [(node_id, record[0], record[2]) for node_id, record in records]


def commitment(challenge_id: int, node_id: bytes, guilty: bool, salt: bytes = SALT) -> bytes:
    """What `CommitVote` takes."""
    words = (challenge_id.to_bytes(32, "big"), node_id, int(guilty).to_bytes(32, "big"), salt)
    return keccak(b"".join(words))


def operator_of(node_id: bytes) -> Party:
    return next(party for party in EVERYBODY if party.node_id == node_id)


def seat(world: World, doubter: Party, challenge_id: int = 1) -> list[Party]:
    """Challenge the accused's work and draw; the operators of the panel, in its order."""
    world.submit(doubter, world.doubt())
    drawn: tuple[bytes, ...] = (bytes(32),) * 3
    while drawn[0] == bytes(32):  # a seed that gives no full panel is followed by another
        world.evm.mine(TERMS.draw_delay_blocks + 1)
        world.submit(doubter, DrawPanel(challenge_id))
        drawn = world.challenge(challenge_id).panel
    return [operator_of(node_id) for node_id in drawn]


def vote(world: World, panel: list[Party], verdicts: str, challenge_id: int = 1) -> None:
    """One letter for each member: g(uilty), n(ot), c(ommits and says no more), - (silent). Time passes as needed."""
    for member, verdict in zip(panel, verdicts, strict=True):
        if verdict != "-":
            committed = commitment(challenge_id, member.node_id, verdict == "g")
            world.submit(member, CommitVote(challenge_id, member.node_id, committed))
    world.pass_s(TERMS.commit_period_s)
    for member, verdict in zip(panel, verdicts, strict=True):
        if verdict in "gn":
            world.submit(member, RevealVote(challenge_id, member.node_id, verdict == "g", SALT))


def resolve(world: World, by: Party, challenge_id: int = 1) -> Done:
    return world.submit(by, Resolve(challenge_id))


def seed_of(world: World) -> bytes:
    """Of a challenge that is made in this block."""
    return block_hash(world.evm.block + TERMS.draw_delay_blocks)
