"""Transactions that wait for a block: in order of nonce, and only for more money one in another's place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deserve_ledger.devnet.chain import Unminable

__all__ = ["Pool"]

_MOST = 4096
_BUMP_PERCENT = 10
"""A replacement pays this much more for both fees, as geth and anvil want it."""


@dataclass(slots=True)
class Pool:
    """Raw transactions by (sender, nonce)."""

    _waiting: dict[tuple[bytes, int], tuple[Any, bytes]] = field(default_factory=dict)

    def add(self, transaction: Any, raw: bytes, nonce: int) -> None:
        """Keep a transaction whose sender's next nonce is `nonce`. Raises `Unminable`."""
        if transaction.nonce < nonce:
            raise Unminable(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        place = (bytes(transaction.sender), int(transaction.nonce))
        if place in self._waiting:
            before = self._waiting[place][0]
            if before.hash == transaction.hash:
                raise Unminable("already known")
            if not all(_pays_more(transaction, before, fee) for fee in ("max_fee_per_gas", "max_priority_fee_per_gas")):
                raise Unminable("replacement transaction underpriced")
        elif len(self._waiting) >= _MOST:
            raise Unminable("txpool is full")
        self._waiting[place] = (transaction, raw)

    def find(self, transaction_hash: bytes) -> Any | None:
        for transaction, _ in self._waiting.values():
            if transaction.hash == transaction_hash:
                return transaction
        return None

    def discard(self, transaction: Any) -> None:
        self._waiting.pop((bytes(transaction.sender), int(transaction.nonce)), None)

    def next_nonce(self, sender: bytes, nonce: int) -> int:
        """The first that is free from `nonce` on: the sender's count of transactions, waiting ones included."""
        while (sender, nonce) in self._waiting:
            nonce += 1
        return nonce

    def ready(self, nonces: dict[bytes, int], base_fee_wei: int) -> list[tuple[Any, bytes]]:
        """What can go into a block now, in order, where each sender's next nonce is `nonces[sender]`."""
        chosen = []
        after = dict(nonces)
        for (sender, nonce), (transaction, raw) in sorted(self._waiting.items(), key=lambda item: item[0]):
            if nonce == after[sender] and _fee(transaction, "max_fee_per_gas") >= base_fee_wei:
                chosen.append((transaction, raw))
                after[sender] += 1
        return chosen

    @property
    def senders(self) -> set[bytes]:
        return {sender for sender, _ in self._waiting}


def _fee(transaction: Any, name: str) -> int:
    """A fee of EIP-1559; a transaction from before it pays its gas price for both."""
    return int(getattr(transaction, name, None) or transaction.gas_price)


def _pays_more(after: Any, before: Any, name: str) -> bool:
    return _fee(after, name) * 100 >= _fee(before, name) * (100 + _BUMP_PERCENT)
