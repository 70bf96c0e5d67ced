"""When blocks are made: at once for a transaction that fits, by hand where that is off, and now and then an empty one.

Empty blocks are what lets time pass and block hashes come on a chain that nobody uses. After a minute without
transactions they become rare, because each costs a millisecond and a half when the chain is opened again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deserve_ledger.devnet.chain import Block, Chain, Unminable
from deserve_ledger.devnet.log import BlockLog
from deserve_ledger.devnet.pool import Pool

__all__ = ["CHAIN_ID", "Producer", "open_producer"]

CHAIN_ID = 31337
"""That of anvil and hardhat."""
_BUSY_S = 60
_IDLE_FACTOR = 30


@dataclass(slots=True)
class Producer:
    """`log` keeps every block before anybody hears of it. Not thread-safe: one thread calls."""

    chain: Chain
    log: BlockLog | None = None
    clock: Callable[[], float] = time.time
    random: Callable[[int], bytes] = os.urandom
    automine: bool = True
    ahead_s: int = 0
    """How far the chain's time is ahead of the clock."""
    next_time_s: int | None = None
    pool: Pool = field(default_factory=Pool)
    _busy_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.ahead_s = max(0, self.chain.head.time_s - int(self.clock()))
        self._busy_at_s = self.clock()

    @property
    def now_s(self) -> int:
        """The time that a block would have now."""
        if self.next_time_s is not None:
            return self.next_time_s
        return max(int(self.clock()) + self.ahead_s, self.chain.head.time_s)

    def nonce(self, sender: bytes) -> int:
        """The sender's transactions in blocks so far."""
        return int(self.chain.state(self.chain.head.number).get_nonce(sender))

    def submit(self, raw: bytes) -> bytes:
        """Take a transaction, and mine it where blocks come by themselves. Returns its hash. Raises `Unminable`."""
        transaction = self.chain.decode(raw)
        sender = bytes(transaction.sender)
        self.pool.add(transaction, raw, self.nonce(sender))
        self._busy_at_s = self.clock()
        while self.automine and (ready := self._ready()):
            self._mine(ready[:1])
        return bytes(transaction.hash)

    def mine(self) -> Block:
        """A block of all that waits and fits, or an empty one."""
        return self._mine(self._ready())

    def mine_if_due(self, every_s: float) -> None:
        """An empty block, where the last one is `every_s` old, or thirty times that on a chain without traffic."""
        now = self.clock()
        rare = _IDLE_FACTOR if now - self._busy_at_s > _BUSY_S else 1
        if self.automine and now + self.ahead_s - self.chain.head.time_s >= every_s * rare:
            self.mine()

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _ready(self) -> list[tuple[Any, bytes]]:
        nonces = {sender: self.nonce(sender) for sender in self.pool.senders}
        return self.pool.ready(nonces, self.chain.next_base_fee_wei())

    def _mine(self, chosen: list[tuple[Any, bytes]]) -> Block:
        try:
            block = self.chain.mine([raw for _, raw in chosen], self.now_s, self.random(32))
        except Unminable:
            if len(chosen) > 1:
                return self._mine(chosen[:1])
            self.pool.discard(chosen[0][0])
            raise
        for transaction, _ in chosen:
            self.pool.discard(transaction)
        if self.next_time_s is not None:
            self.ahead_s = block.time_s - int(self.clock())
            self.next_time_s = None
        if self.log is not None:
            self.log.append(block)
        return block


def open_producer(folder: Path, clock: Callable[[], float] = time.time) -> Producer:
    """The chain kept in `folder`, as it was. Raises `DevnetUnusable`."""
    log, chain = BlockLog.open(folder, CHAIN_ID, int(clock()))
    return Producer(chain, log, clock)
