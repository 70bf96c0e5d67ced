"""A reader of events knows every balance without asking the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from panels import seat, vote
from world import (
    ACCUSED,
    COORDINATOR,
    DOUBTER,
    EVERYBODY,
    JOB,
    OPERATORS,
    PAYER,
    RIVAL,
    SIGNER,
    STRANGER,
    TERMS,
    Party,
    World,
    settle_in,
)

from deserve_ledger.calls import (
    AddBond,
    AddStake,
    BeginBondRelease,
    BeginUnbond,
    Call,
    Deposit,
    OpenJob,
    Refund,
    Release,
    RequestRelease,
    Reserve,
    Resolve,
    Withdraw,
    WithdrawBond,
    WithdrawStake,
)
from deserve_ledger.contracts import Artifact, load_artifact


class Recorded(World):
    """Keeps all events of the ledger."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def submit(self, party: Party, call: Call) -> Any:
        done = super().submit(party, call)
        self.events += [(log.name, log.fields) for log in done.events if log.address == self.ledger.address]
        return done


def movements(events: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[bytes, int]]:
    """(account, change of its balance), of every event in order."""
    operators: dict[bytes, bytes] = {}
    challenges: dict[int, tuple[bytes, list[bytes]]] = {}
    for name, fields in events:
        amount = fields.get("amount", 0)
        if name in ("Deposited", "Withdrawn"):
            yield fields["account"], amount if name == "Deposited" else -amount
        elif name == "NodeRegistered":
            operators[fields["nodeId"]] = fields["operator"]
            yield fields["operator"], -fields["stake"]
        elif name in ("StakeAdded", "StakeWithdrawn", "Claimed"):
            yield fields["operator"], -amount if name == "StakeAdded" else amount
        elif name in ("BondAdded", "BondWithdrawn", "Reserved", "Released", "VoucherRedeemed"):
            yield fields["coordinator"], -amount if name in ("BondAdded", "Reserved") else amount
        elif name == "JobOpened":
            yield fields["payer"], -fields["budget"]
        elif name == "JobRefunded":
            yield fields["payer"], amount
        elif name in ("NodeSlashed", "CoordinatorSlashed"):
            wronged = fields["submitter" if name == "NodeSlashed" else "injured"]
            shares = 2 if any(wronged) else 1
            share = (amount - fields["burnt"]) // shares
            yield from [(fields["accuser"], share), (wronged, share)][:shares]
        elif name == "Challenged":
            challenges[fields["challengeId"]] = (fields["challenger"], [])
            yield fields["challenger"], -fields["bond"]
        elif name == "PanelDrawn":
            challenges[fields["challengeId"]][1].extend(fields[seat] for seat in ("first", "second", "third"))
        elif name == "ChallengeResolved":
            challenger, panel = challenges[fields["challengeId"]]
            if fields["acquitted"] == 3:
                third = fields["bond"] // 3
                yield operators[panel[0]], fields["bond"] - 2 * third
                yield from ((operators[member], third) for member in panel[1:])
            else:
                yield challenger, fields["bond"]


def test_balances_are_rebuilt_from_events_alone(artifact: Artifact) -> None:
    world = Recorded(artifact, load_artifact("TestToken"), 10**12)
    settle_in(world)
    world.submit(PAYER, Deposit(7))
    world.submit(PAYER, Withdraw(3))
    world.submit(STRANGER, world.bind(STRANGER))
    world.submit(STRANGER, AddStake(STRANGER.node_id, 4))
    world.submit(RIVAL, AddBond(9))
    world.submit(PAYER, OpenJob(b"\1" * 32, COORDINATOR.address, SIGNER.address, 77, world.evm.now_s + 9))
    for cumulative in (100, 90):
        world.submit(COORDINATOR, world.voucher(cumulative))
    world.submit(COORDINATOR, Reserve(OPERATORS[1].node_id, 33))
    world.submit(ACCUSED, world.credit(50))
    vote(world, seat(world, DOUBTER), "nnn")
    world.submit(STRANGER, Resolve(1))
    world.submit(STRANGER, world.doubt(operator=OPERATORS[1]))
    world.submit(DOUBTER, world.contradiction())
    world.submit(COORDINATOR, RequestRelease(OPERATORS[1].node_id, 33))
    world.submit(RIVAL, BeginBondRelease())
    world.submit(STRANGER, BeginUnbond(STRANGER.node_id))
    world.pass_s(TERMS.unbonding_s)
    world.submit(STRANGER, Resolve(2))
    world.submit(STRANGER, WithdrawStake(STRANGER.node_id))
    world.submit(RIVAL, WithdrawBond())
    world.submit(COORDINATOR, Release(OPERATORS[1].node_id))
    world.submit(STRANGER, Refund(JOB))
    world.submit(DOUBTER, world.double_credit())

    rebuilt: Counter[bytes] = Counter()
    for account, change in movements(world.events):
        rebuilt[account] += change
    assert {party.name: rebuilt[party.address] for party in EVERYBODY} == world.balances()
    told = {name for name, _ in world.events}
    declared = {entry["name"] for entry in artifact.abi if entry["type"] == "event"}
    assert declared - told <= {"EIP712DomainChanged", "RootPosted", "DrawPostponed"}  # which move nothing
    assert SIGNER.address not in rebuilt
