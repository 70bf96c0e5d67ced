"""Gas of the calls that docs/ledger.md lists: `python tests/ledger/contract/gas.py` prints its table.

Figures are of py-evm under Cancun rules, with parties and amounts as in `world.py`. *First* is a call that writes a
balance, a root or a claim where there was none, *next* one that changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak
from world import (
    ACCUSED,
    COORDINATOR,
    DOUBTER,
    JOB,
    OPERATORS,
    PAYER,
    RIVAL,
    SIGNER,
    STRANGER,
    Party,
    World,
    make_world,
)

from deserve_ledger.calls import Claim, OpenJob, PostRoot, Refund, Reserve, Withdraw
from deserve_ledger.merkle import MerkleTree, claim_leaf

LEAVES = 1024
ALLOWANCE = 1.15


@dataclass(frozen=True, slots=True)
class Measured:
    call: str
    gas: int
    bar: int | None


def empty(world: World, party: Party) -> None:
    """Its next balance is its first."""
    world.submit(party, Withdraw(world.balance(party)))


def claim(world: World, epoch: int, owed: int) -> Claim:
    """Of the accused's node under a posted root of `LEAVES` leaves."""
    leaves = [claim_leaf(COORDINATOR.address, epoch, ACCUSED.node_id, owed)]
    leaves += [
        claim_leaf(COORDINATOR.address, epoch, keccak(bytes([n % 256, n // 256])), owed) for n in range(1, LEAVES)
    ]
    tree = MerkleTree(leaves)
    world.submit(COORDINATOR, PostRoot(epoch, tree.root))
    return Claim(COORDINATOR.address, epoch, ACCUSED.node_id, owed, tree.proof(0))


def measure() -> list[Measured]:
    world = make_world()
    table: list[Measured] = []

    def note(call: str, gas: int, bar: int | None = None) -> None:
        table.append(Measured(call, gas, bar))

    note("register a node", world.submit(STRANGER, world.bind(STRANGER)).gas, 125_000)
    opening = OpenJob(b"\1" * 32, RIVAL.address, SIGNER.address, 2000, world.evm.now_s + 3600)
    note("open a job", world.submit(PAYER, opening).gas, 141_000)
    empty(world, COORDINATOR)
    note("redeem a voucher, first", world.submit(COORDINATOR, world.voucher(100)).gas, 66_000)
    note("redeem a voucher, next", world.submit(COORDINATOR, world.voucher(200)).gas, 49_000)
    note("redeem a voucher, replay", world.submit(COORDINATOR, world.voucher(200)).gas)
    note("post a root, first", world.submit(RIVAL, PostRoot(0, b"\1" * 32)).gas, 100_000)
    note("post a root, next", world.submit(RIVAL, PostRoot(1, b"\1" * 32)).gas, 81_000)
    with world.undone():
        empty(world, ACCUSED)
        note("claim under 1,024 leaves, first", world.submit(ACCUSED, claim(world, 0, 100)).gas, 88_000)
        note("claim under 1,024 leaves, next", world.submit(ACCUSED, claim(world, 1, 200)).gas, 71_000)
    with world.undone():
        empty(world, ACCUSED)
        note("claim a credit, first", world.submit(ACCUSED, world.credit(100)).gas)
        note("claim a credit, next", world.submit(ACCUSED, world.credit(200)).gas)
    note("refund a job", world.submit(COORDINATOR, Refund(JOB)).gas, 48_000)
    with world.undone():
        empty(world, DOUBTER)
        empty(world, PAYER)
        note("slash a node", world.submit(DOUBTER, world.contradiction()).gas, 186_000)
    note("slash a coordinator", world.submit(DOUBTER, world.double_credit()).gas)
    note("reserve for a node, first", world.submit(RIVAL, Reserve(OPERATORS[1].node_id, 100)).gas)
    note("challenge", world.submit(DOUBTER, world.doubt()).gas)
    return table


def render(table: list[Measured]) -> str:
    """As a Markdown table."""
    lines = ["| call | gas | bar |", "|---|---|---|"]
    lines += [f"| {row.call} | {row.gas:,} | {f'{row.bar:,}' if row.bar else '–'} |" for row in table]
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(measure()))
