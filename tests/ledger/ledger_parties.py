"""Who acts in the ledger's property tests: six accounts that may each pay, coordinate, operate nodes, judge and cheat.

What they sign is recorded, so that a test can hold what somebody was paid against what his debtor signed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey

from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.eip712 import Domain, sign
from deserve_ledger.identifiers import Work, node_id, ring_key
from deserve_ledger.messages import BindNode, Credit, Voucher, WorkReceipt
from deserve_ledger.records import Terms

TERMS = Terms(
    challenge_window_s=100,
    audit_retention_s=50,
    unbonding_s=200,
    refund_grace_s=60,
    release_delay_s=120,
    draw_delay_blocks=2,
    commit_period_s=30,
    reveal_period_s=40,
    min_stake=100,
    challenge_bond=50,
)
PARTIES = 6
FUNDS = 5_000


def key_of(name: str) -> bytes:
    return keccak(name.encode())


def address_of(key: bytes) -> bytes:
    return PrivateKey(key).public_key.to_canonical_address()


KEYS = [development_key(1 + i) for i in range(PARTIES)]
"""Accounts that have ether on a development chain."""
ACCOUNTS = [address_of(key) for key in KEYS]
SESSION_KEY = key_of("a session key")
SESSION = address_of(SESSION_KEY)


def peer_key(number: int) -> bytes:
    return keccak(b"peer %d" % number)


def receipt_key(number: int) -> bytes:
    return key_of(f"receipt key {number}")


def node_of(operator: int, number: int = 0) -> bytes:
    return node_id(ACCOUNTS[operator], peer_key(number))


def work_of(job: bytes, chunk: int) -> Work:
    return Work(job, ring_key("r-1"), 1, 1, 0, 0, chunk)


@dataclass
class Signatures:
    """Made for one ledger, and what they entitle their receivers to at most."""

    domain: Domain
    vouched: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    """The greatest cumulative sum that a job's payer or session key has signed."""
    credited: dict[tuple[bytes, bytes], int] = field(default_factory=lambda: defaultdict(int))
    """The greatest that a coordinator has signed, or posted under a root, for a node."""

    def bind(self, operator: int, number: int, nonce: int, key: bytes) -> bytes:
        return sign(key, self.domain, BindNode(ACCOUNTS[operator], peer_key(number), nonce))

    def voucher(self, job: bytes, cumulative: int, seq: int, key: bytes, entitles: bool) -> tuple[Voucher, bytes]:
        voucher = Voucher(job, cumulative, seq, keccak(b"results"))
        if entitles:
            self.vouched[job] = max(self.vouched[job], cumulative)
        return voucher, sign(key, self.domain, voucher)

    def credit(self, coordinator: int, node: bytes, cumulative: int, seq: int, key: bytes) -> tuple[Credit, bytes]:
        credit = Credit(ACCOUNTS[coordinator], node, cumulative, seq, keccak(b"receipts"))
        if key == KEYS[coordinator]:
            self.owe(coordinator, node, cumulative)
        return credit, sign(key, self.domain, credit)

    def owe(self, coordinator: int, node: bytes, cumulative: int) -> None:
        owed = (ACCOUNTS[coordinator], node)
        self.credited[owed] = max(self.credited[owed], cumulative)

    def receipt(self, work: Work, node: bytes, units: int, key: bytes) -> tuple[WorkReceipt, bytes]:
        receipt = WorkReceipt(work.work_id, node, keccak(b"in"), keccak(b"out"), units)
        return receipt, sign(key, self.domain, receipt)
