"""A coordinator that signs credits, receipts of a node, and a ledger and a clock that tests set."""

from __future__ import annotations

from deserve_ledger.eip712 import Domain, sign
from deserve_ledger.keystore import Key
from deserve_ledger.messages import Credit
from deserve_ledger.records import Reservation
from deserve_network.money_messages import CreditNote, SignedReceipt
from deserve_node.wallet.store import Debtor

DOMAIN = Domain(31337, b"\x0c" * 20)
COORDINATOR = Key.of(b"\x11" * 32)
NODE = b"\x0d" * 32
DEBTOR = Debtor(DOMAIN, COORDINATOR.address, NODE)


def note(cumulative: int, seq: int, *, root: bytes = bytes(32), key: Key = COORDINATOR, **more) -> CreditNote:
    credit = Credit(COORDINATOR.address, NODE, cumulative, seq, root)
    return CreditNote(COORDINATOR.address, NODE, cumulative, seq, root, sign(key.secret, DOMAIN, credit), **more)


def receipt(chunk: int, *, prefill: int = 0, decode: int = 0, ring: str = "r-1") -> SignedReceipt:
    return SignedReceipt(
        bytes(32), ring, 1, 1, 0, 0, chunk, NODE, bytes(32), bytes(32), prefill + decode, bytes(65), bytes(32),
        bytes(32), prefill,
    )  # fmt: skip


def work_id(chunk: int) -> bytes:
    return chunk.to_bytes(32, "big")


class Vault:
    """A ledger of one reservation that tests set."""

    def __init__(self) -> None:
        self.reservation_here = Reservation(amount=10**9)
        self.error: Exception | None = None

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation:
        if self.error is not None:
            raise self.error
        assert (coordinator, node_id) == (COORDINATOR.address, NODE)
        return self.reservation_here


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
