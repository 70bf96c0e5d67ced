"""The `Ledger` of one account over a journal: signs its calls, and has each take effect once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from eth_keys.datatypes import PrivateKey

from deserve_ledger.eip712 import Domain
from deserve_ledger.embedded.access import JournalAccess
from deserve_ledger.embedded.calls import JournalCall
from deserve_ledger.embedded.encoding import encode_call
from deserve_ledger.embedded.entries import SignedCall, journal_domain, sign_call
from deserve_ledger.embedded.pending import PendingCall
from deserve_ledger.embedded.tip import EVENTS_AN_ENTRY
from deserve_ledger.errors import Refused, Unsettled
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    Event,
    JobRecord,
    NodeRecord,
    Reservation,
    Settled,
    Terms,
    Totals,
)

__all__ = ["EmbeddedLedger"]

log = logging.getLogger(__name__)

_VALID_S = 300
_SIGNINGS = 5
"""How often a call is signed anew because another process of this account took its nonce."""


class EmbeddedLedger:
    """`key` is the account's 32-byte private key; `pending` the file in which it remembers what it has sent.

    `access` is a journal of this process (`OwnedJournal`) or somebody else's (`RemoteJournal`), and closed with this.
    """

    def __init__(self, access: JournalAccess, key: bytes, pending: Path) -> None:
        self._access = access
        self._key = key
        self._pending = PendingCall(pending)
        self._account = PrivateKey(key).public_key.to_canonical_address()
        self._domain = journal_domain(access.owner)
        self._submitting = asyncio.Lock()

    @property
    def account(self) -> bytes:
        return self._account

    @property
    def domain(self) -> Domain:
        return self._domain

    @property
    def terms(self) -> Terms:
        return self._access.terms

    async def submit(self, call: JournalCall) -> Settled:
        encoded = encode_call(call)
        async with self._submitting:
            unheard = self._pending.signed
            if unheard is not None:
                settled = await self._send_again(unheard, wanted=unheard.call == encoded)
                if settled is not None and unheard.call == encoded:
                    log.warning("an identical call was interrupted: that one is finished, no second made")
                    return settled
            for _ in range(_SIGNINGS):
                signed = await self._sign(call)
                try:
                    return await self._send(signed)
                except Refused as refused:
                    if refused.reason != "BadNonce":
                        raise
            raise Unsettled(f"other processes of {self._account.hex()} took {_SIGNINGS} nonces in a row")

    async def _sign(self, call: JournalCall) -> SignedCall:
        nonce = cast(int, await self._access.read("nonce", self._account))
        expires_s = await self._access.now_s() + _VALID_S
        signed = sign_call(self._key, self._account, self._domain, nonce, expires_s, call)
        self._pending.remember(signed)
        return signed

    async def _send(self, signed: SignedCall) -> Settled:
        """Forgets the call once its fate is known; one that nobody answered stays pending."""
        try:
            settled = await self._access.send(signed)
        except Refused:
            self._pending.remember(None)
            raise
        self._pending.remember(None)
        return settled

    async def _send_again(self, unheard: SignedCall, wanted: bool) -> Settled | None:
        """What became of a call of an earlier life; None where it never took effect and never will."""
        try:
            return await self._send(unheard)
        except Refused as refused:
            if wanted and refused.reason not in ("BadNonce", "CallExpired"):
                raise
            return None

    async def balance(self, account: bytes) -> int:
        return cast(int, await self._access.read("balance", account))

    async def tokens(self, account: bytes) -> int:
        """What an account holds outside the ledger's keeping: what the journal's owner owes it."""
        return cast(int, await self._access.read("tokens", account))

    async def node(self, node_id: bytes) -> NodeRecord:
        return cast(NodeRecord, await self._access.read("node", node_id))

    async def coordinator(self, account: bytes) -> CoordinatorRecord:
        return cast(CoordinatorRecord, await self._access.read("coordinator", account))

    async def job(self, job_id: bytes) -> JobRecord:
        return cast(JobRecord, await self._access.read("job", job_id))

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation:
        return cast(Reservation, await self._access.read("reservation", coordinator, node_id))

    async def root(self, coordinator: bytes, epoch: int) -> bytes:
        return cast(bytes, await self._access.read("root", coordinator, epoch))

    async def challenge(self, challenge_id: int) -> ChallengeRecord:
        return cast(ChallengeRecord, await self._access.read("challenge", challenge_id))

    async def totals(self) -> Totals:
        return cast(Totals, await self._access.read("totals"))

    async def events(self, after: int, limit: int = 1000) -> Sequence[Event]:
        return await self._access.events(after, limit)

    async def now_s(self) -> int:
        return await self._access.now_s()

    async def beacon(self, position: int) -> bytes | None:
        """From the hash of `position`'s entry, which covers what its owner drew when it was journaled."""
        entry_hash = await self._access.hash_at(position // EVENTS_AN_ENTRY)
        return None if entry_hash is None else hashlib.sha256(b"beacon" + entry_hash).digest()

    async def close(self) -> None:
        await self._access.close()
