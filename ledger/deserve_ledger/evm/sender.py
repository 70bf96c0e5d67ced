"""Makes transactions happen once: signs, stores, sends, sends again, pays more, and waits until nothing can undo them.

What is on disk decides (`outbox`): a transaction is sent only from there, so a crash between any two steps is made good
by doing the next step again. A transaction that waits too long is replaced by a dearer one with its own nonce, and of
the two the chain can take one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from deserve_ledger.errors import ChainRefused, ChainUnreachable, Refused, Unfunded, Unsettled
from deserve_ledger.evm.chain import Chain, Receipt, TransactionReverted
from deserve_ledger.evm.outbox import Attempt, Entry, Outbox
from deserve_ledger.finality import Confirmations

__all__ = ["Pace", "Sender", "final_height"]

log = logging.getLogger(__name__)

_KNOWN_ALREADY = ("already known", "known transaction", "already imported", "nonce too low", "underpriced")
"""What nodes say of a transaction that they have, or that has happened. Its receipt says which."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a sender is, in seconds."""

    poll_s: float = 0.5
    bump_after_s: float = 90.0
    """After this long without a block, the next attempt pays an eighth more (nodes want a tenth)."""
    give_up_after_s: float = 1800.0
    """Then the caller is told `Unsettled`. The transaction may still happen, and is found when asked for again."""


async def final_height(chain: Chain, confirmations: Confirmations) -> int:
    """The newest block that will stay."""
    block = await chain.block("finalized" if confirmations == "finalized" else "latest")
    if block is None:
        return 0
    return max(0, block.number - confirmations) if isinstance(confirmations, int) else block.number


@dataclass(slots=True)
class Sender:
    """For the account with the private key `key`. One at a time uses an outbox."""

    chain: Chain
    outbox: Outbox
    key: bytes = field(repr=False)
    chain_id: int
    account: bytes
    confirmations: Confirmations
    reason: Callable[[bytes], str | None]
    """The name of the custom error in a revert's data."""
    pace: Pace = Pace()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _allotting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _driven: set[int] = field(default_factory=set)
    _sent_at_s: dict[bytes, float] = field(default_factory=dict)

    async def transact(self, recipient: bytes | None, data: bytes) -> Receipt:
        """A transaction's receipt once it is final. An empty recipient creates a contract.

        Raises `Refused`, `ChainUnreachable` and `Unfunded` before anything was sent, `Refused` when it was sent and
        failed, `Unsettled` while its fate is open.
        """
        entry = self._left_over(recipient or b"", data)
        if entry is None:
            entry = await self._intend(recipient, data)
        else:
            log.warning("an identical call was interrupted: finishing that one (nonce %d), no second", entry.nonce)
        self._driven.add(entry.id)
        try:
            receipt = await self._drive(entry)
        finally:
            self._driven.discard(entry.id)
        if not receipt.succeeded:
            reason = await self._why(entry, receipt)
            self.outbox.deliver(entry)
            raise Refused(reason)
        self.outbox.deliver(entry)
        return receipt

    def has_left_over(self, recipient: bytes, data: bytes) -> bool:
        """Whether an earlier run, or a call that ended `Unsettled`, began this transaction and nobody was told."""
        return self._left_over(recipient, data) is not None

    def _left_over(self, recipient: bytes, data: bytes) -> Entry | None:
        for entry in self.outbox.undelivered():
            if entry.id not in self._driven and (entry.recipient, entry.data) == (recipient, data):
                return entry
        return None

    async def _intend(self, recipient: bytes | None, data: bytes) -> Entry:
        try:
            needed = await self.chain.estimate_gas(self.account, recipient, data)
        except TransactionReverted as error:
            raise Refused(self.reason(error.data) or str(error)) from error
        gas = needed * 6 // 5
        base_wei, tip_wei = await self.chain.fees_wei()
        most_wei = 2 * base_wei + tip_wei
        if (held_wei := await self.chain.ether_wei(self.account)) < gas * most_wei:
            account = f"0x{self.account.hex()}"
            raise Unfunded(f"{account} has {held_wei} wei, and a transaction may cost {gas * most_wei}")
        async with self._allotting:
            nonce = max(await self.chain.nonce(self.account), self.outbox.next_nonce())
            first = self._sign(recipient or b"", data, gas, nonce, tip_wei, most_wei)
            return self.outbox.intend(recipient or b"", data, gas, first)

    async def _drive(self, entry: Entry) -> Receipt:
        """Take steps until it is settled; also those of entries before it that nobody waits for."""
        until_s = self.clock() + self.pace.give_up_after_s
        while True:
            try:
                for other in self.outbox.undelivered():
                    if other.nonce < entry.nonce and other.state == "open" and other.id not in self._driven:
                        await self.step(other)
                if (receipt := await self.step(entry)) is not None:
                    return receipt
                await self._put_back(entry)
            except ChainUnreachable as error:
                log.warning("transaction with nonce %d: %s", entry.nonce, error)
            if self.clock() >= until_s:
                raise Unsettled(f"the transaction with nonce {entry.nonce} is not final yet; ask for the same again")
            entry = self._current(entry)
            await self.sleep(self.pace.poll_s)

    def _current(self, entry: Entry) -> Entry:
        return next((one for one in self.outbox.undelivered() if one.id == entry.id), entry)

    async def step(self, entry: Entry) -> Receipt | None:
        """One step towards the end of an entry: its final receipt, or None while there is none."""
        if entry.settled_by is not None and (receipt := await self.chain.receipt(entry.settled_by)) is not None:
            return receipt
        attempts = self.outbox.attempts(entry)
        for attempt in reversed(attempts):
            receipt = await self.chain.receipt(attempt.hash)
            if receipt is not None:
                if receipt.block > await final_height(self.chain, self.confirmations):
                    return None
                self.outbox.settle(entry, receipt.transaction)
                return receipt
        newest = attempts[-1]
        if await self._is_lost(entry, attempts):
            log.warning("nonce %d was used by a transaction that is none of ours; taking another", entry.nonce)
            async with self._allotting:
                nonce = max(await self.chain.nonce(self.account), self.outbox.next_nonce())
                again = self._sign(entry.recipient, entry.data, entry.gas, nonce, newest.tip_wei, newest.most_wei)
                self.outbox.add(entry, again)
            await self._send(again)
            return None
        sent_at_s = self._sent_at_s.get(newest.hash)
        if sent_at_s is not None and self.clock() - sent_at_s >= self.pace.bump_after_s:
            newest = await self._dearer(entry, newest)
        elif sent_at_s is not None and await self.chain.is_known(newest.hash):
            return None
        await self._send(newest)
        # A chain that makes a block at once has the receipt by now.
        receipt = await self.chain.receipt(newest.hash)
        if receipt is not None and receipt.block <= await final_height(self.chain, self.confirmations):
            self.outbox.settle(entry, receipt.transaction)
            return receipt
        return None

    async def _is_lost(self, entry: Entry, attempts: list[Attempt]) -> bool:
        """Whether a transaction from elsewhere has used this nonce for good, so that none of ours can ever happen."""
        if await self.chain.nonce(self.account) <= entry.nonce:
            return False
        final = await final_height(self.chain, self.confirmations)
        if await self.chain.nonce(self.account, final) <= entry.nonce:
            return False
        # Asked again after the count: one of ours may have come with the newest block.
        return not [one for one in attempts if await self.chain.receipt(one.hash) is not None]

    async def _put_back(self, entry: Entry) -> None:
        """Send what the chain has lost of earlier entries, settled ones too, when it took blocks back: without their
        nonces it never comes to this one."""
        for attempt in self.outbox.newest_between(await self.chain.nonce(self.account), entry.nonce):
            if not await self.chain.is_known(attempt.hash):
                await self._send(attempt)

    async def _dearer(self, entry: Entry, before: Attempt) -> Attempt:
        base_wei, tip_wei = await self.chain.fees_wei()
        tip_wei = max(tip_wei, before.tip_wei * 9 // 8 + 1)
        most_wei = max(2 * base_wei + tip_wei, before.most_wei * 9 // 8 + 1)
        made = self._sign(entry.recipient, entry.data, entry.gas, entry.nonce, tip_wei, most_wei)
        self.outbox.add(entry, made)
        log.info("nonce %d waits for a block; paying %d wei a gas at most", entry.nonce, most_wei)
        return made

    def _sign(self, recipient: bytes, data: bytes, gas: int, nonce: int, tip_wei: int, most_wei: int) -> Attempt:
        from eth_account import Account

        fields = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": nonce,
            "to": recipient,
            "data": data,
            "value": 0,
            "gas": gas,
            "maxPriorityFeePerGas": tip_wei,
            "maxFeePerGas": most_wei,
        }
        signed = Account.sign_transaction(fields, self.key)
        return Attempt(bytes(signed.hash), nonce, bytes(signed.raw_transaction), tip_wei, most_wei)

    async def _send(self, attempt: Attempt) -> None:
        self._sent_at_s.setdefault(attempt.hash, self.clock())
        try:
            await self.chain.send(attempt.raw)
        except ChainRefused as error:
            if not any(phrase in str(error).lower() for phrase in _KNOWN_ALREADY):
                log.warning("transaction with nonce %d: %s", attempt.nonce, error)

    async def _why(self, entry: Entry, receipt: Receipt) -> str:
        """Why a transaction failed: what the same message says on top of the block before."""
        try:
            await self.chain.call(self.account, entry.recipient, entry.data, receipt.block - 1)
            await self.chain.call(self.account, entry.recipient, entry.data, receipt.block)
        except TransactionReverted as error:
            return self.reason(error.data) or str(error)
        except ChainRefused as error:  # it keeps no state that old
            log.warning("transaction 0x%s failed: %s", receipt.transaction.hex(), error)
        return "OutOfGas" if receipt.gas_used >= entry.gas else "Reverted"
