"""A deployed ledger with money, nodes and a job in it, for tests that start where something can be done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey
from evm import Contract, Done, Evm

from deserve_ledger import identifiers
from deserve_ledger.calls import (
    AddBond,
    Call,
    Challenge,
    ClaimCredit,
    Deposit,
    OpenJob,
    RedeemVoucher,
    RegisterNode,
    Reserve,
    SlashCoordinator,
    SlashNode,
)
from deserve_ledger.contracts import Artifact, load_artifact, parse_artifact
from deserve_ledger.eip712 import Domain, Typed, sign
from deserve_ledger.identifiers import Work
from deserve_ledger.messages import BindNode, Credit, Voucher, WorkReceipt
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    JobRecord,
    NodeRecord,
    Reservation,
    Terms,
    Totals,
)

TERMS = Terms(
    challenge_window_s=3600,
    audit_retention_s=7200,
    unbonding_s=10_801,
    refund_grace_s=1800,
    release_delay_s=3600,
    draw_delay_blocks=3,
    commit_period_s=600,
    reveal_period_s=500,
    min_stake=1000,
    challenge_bond=301,  # does not divide by the three of a panel
)
FUNDS = 1_000_000
STAKE = 1001  # shares of it do not come out even
BUDGET = 5000
RESERVED = 400
BURNT = bytes(18) + b"\xde\xad"


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody with a key. Its node, if it operates one, has a peer key and a receipt key of its own."""

    name: str

    @property
    def key(self) -> bytes:
        return keccak(self.name.encode())

    @property
    def address(self) -> bytes:
        return PrivateKey(self.key).public_key.to_canonical_address()

    @property
    def peer_key(self) -> bytes:
        return keccak(f"peer of {self.name}".encode())

    @property
    def node_id(self) -> bytes:
        return identifiers.node_id(self.address, self.peer_key)

    @property
    def receipts(self) -> Party:
        return Party(f"receipt key of {self.name}")


BANK, PAYER, SIGNER, COORDINATOR, RIVAL, DOUBTER, STRANGER = (
    Party(name) for name in ("bank", "payer", "signer", "coordinator", "rival", "doubter", "stranger")
)
OPERATORS = tuple(Party(f"operator {number}") for number in range(5))
ACCUSED = OPERATORS[0]
"""By convention the one whose node is in trouble."""
EVERYBODY = (PAYER, COORDINATOR, RIVAL, DOUBTER, STRANGER, *OPERATORS)
JOB = identifiers.job_id(PAYER.address, bytes(32))
WORK = Work(JOB, identifiers.ring_key("ring"), epoch=1, lease=2, attempt=0, stage=1, chunk=5)


def odd_token() -> Artifact:
    """Made by `python -m deserve_ledger.contracts.compiler tests/ledger/contract/tokens OddToken`."""
    return parse_artifact(json.loads((Path(__file__).parent / "tokens" / "artifacts" / "OddToken.json").read_text()))


class World:
    """A chain with a token and a ledger; `domain` is what signatures are made for unless a test says otherwise."""

    def __init__(self, artifact: Artifact, token: Artifact, *token_arguments: int | bytes, chain_id: int = 1) -> None:
        self.evm = Evm(chain_id)
        self.token = self.evm.deploy(BANK.address, token, *token_arguments)
        self.ledger: Contract = self.evm.deploy(BANK.address, artifact, self.token.address, TERMS)
        self.domain = Domain(chain_id, self.ledger.address)

    @contextmanager
    def undone(self) -> Iterator[World]:
        with self.evm.undone():
            yield self

    def submit(self, party: Party, call: Call) -> Done:
        return self.ledger.submit(party.address, call)

    def sign(self, party: Party, message: Typed, domain: Domain | None = None) -> bytes:
        return sign(party.key, domain or self.domain, message)

    def pass_s(self, seconds: int) -> None:
        self.evm.pass_s(seconds)

    # What is there

    def balance(self, party: Party) -> int:
        return int(self.ledger.read("balanceOf", party.address))

    def tokens(self, address: bytes) -> int:
        return int(self.token.read("balanceOf", address))

    def totals(self) -> Totals:
        return Totals(*self.ledger.read("totals"))

    def node(self, operator: Party) -> NodeRecord:
        return NodeRecord(*self.ledger.read("nodeOf", operator.node_id))

    def coordinator(self, party: Party = COORDINATOR) -> CoordinatorRecord:
        return CoordinatorRecord(*self.ledger.read("coordinatorOf", party.address))

    def job(self, job_id: bytes = JOB) -> JobRecord:
        return JobRecord(*self.ledger.read("jobOf", job_id))

    def reservation(self, operator: Party = ACCUSED, coordinator: Party = COORDINATOR) -> Reservation:
        return Reservation(*self.ledger.read("reservationOf", coordinator.address, operator.node_id))

    def challenge(self, challenge_id: int = 1) -> ChallengeRecord:
        return ChallengeRecord(*self.ledger.read("challengeOf", challenge_id))

    def auditors(self) -> list[bytes]:
        return [self.ledger.read("auditorAt", index) for index in range(self.ledger.read("auditorCount"))]

    def balances(self) -> dict[str, int]:
        return {party.name: self.balance(party) for party in EVERYBODY}

    # What parties sign and ask for

    def bind(self, operator: Party, stake: int = STAKE, nonce: int = 0) -> RegisterNode:
        bound = BindNode(operator.address, operator.peer_key, nonce)
        signature = self.sign(operator.receipts, bound)
        return RegisterNode(operator.peer_key, operator.receipts.address, stake, nonce, signature)

    def voucher(self, cumulative: int, by: Party = SIGNER, **changes: Any) -> RedeemVoucher:
        voucher = replace(Voucher(JOB, cumulative, seq=1, results_root=b"\1" * 32), **changes)
        return RedeemVoucher(voucher, self.sign(by, voucher))

    def credit(self, cumulative: int, by: Party = COORDINATOR, **changes: Any) -> ClaimCredit:
        credit = Credit(COORDINATOR.address, ACCUSED.node_id, cumulative, seq=1, receipts_root=b"\1" * 32)
        credit = replace(credit, **changes)
        return ClaimCredit(credit, self.sign(by, credit))

    def receipt(self, work: Work = WORK, operator: Party = ACCUSED, **changes: Any) -> WorkReceipt:
        return replace(WorkReceipt(work.work_id, operator.node_id, b"\1" * 32, b"\2" * 32, 640), **changes)

    def contradiction(self, work: Work = WORK, by: Party = ACCUSED.receipts, **changes: Any) -> SlashNode:
        """Two receipts of the accused; `changes` are the second one's."""
        one = self.receipt(work)
        other = replace(one, **(changes or {"out_root": b"\3" * 32}))
        return SlashNode(work, one, self.sign(by, one), other, self.sign(by, other))

    def double_credit(self, **changes: Any) -> SlashCoordinator:
        one, other = self.credit(10).credit, replace(self.credit(10).credit, **(changes or {"cumulative": 11}))
        return SlashCoordinator(one, self.sign(COORDINATOR, one), other, self.sign(COORDINATOR, other))

    def doubt(self, work: Work = WORK, operator: Party = ACCUSED) -> Challenge:
        receipt = self.receipt(work, operator)
        return Challenge(work, receipt, self.sign(operator.receipts, receipt), evidence=b"\4" * 32)


def settle_in(world: World) -> World:
    """Everybody has paid in; the operators have nodes, the payer a job, the coordinator a bond and a reservation."""
    for party in EVERYBODY:
        world.token.call(BANK.address, "transfer", party.address, FUNDS)
        world.token.call(party.address, "approve", world.ledger.address, FUNDS)
        world.submit(party, Deposit(FUNDS // 2))
    for operator in OPERATORS:
        world.submit(operator, world.bind(operator))
    world.submit(COORDINATOR, AddBond(999))
    world.submit(COORDINATOR, Reserve(ACCUSED.node_id, RESERVED))
    deadline_s = world.evm.now_s + 3600
    world.submit(PAYER, OpenJob(bytes(32), COORDINATOR.address, SIGNER.address, BUDGET, deadline_s))
    return world


def make_world(artifact: Artifact | None = None) -> World:
    world = World(artifact or load_artifact("DeserveLedger"), load_artifact("TestToken"), 10**12)
    return settle_in(world)
