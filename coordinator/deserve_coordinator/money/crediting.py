"""Signs what nodes are owed. The store decides the content, once for each seq, and only then is there a signature.

Signing is deterministic, so a credit that a crash kept from its node is signed again as exactly the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from deserve_coordinator.store.money import MoneyStore
from deserve_coordinator.store.money_records import CreditRecord
from deserve_ledger.eip712 import Domain, sign
from deserve_ledger.keystore import Key
from deserve_ledger.messages import Credit
from deserve_network.money_messages import CreditNote

__all__ = ["Crediting"]

log = logging.getLogger(__name__)


class Crediting:
    """`send(node_id, note)` hands a note to the node's session, if there is one, and says whether there was."""

    def __init__(self, store: MoneyStore, domain: Domain, key: Key, send: Callable[[bytes, CreditNote], bool]) -> None:
        self._store = store
        self._domain = domain
        self._key = key
        self._send = send
        self.signed = 0

    async def step(self) -> None:
        """Credit every node that something new can be credited to."""
        for node_id in await self._store.nodes_due():
            while (record := await self._store.write_credit(node_id)) is not None:
                await self._deliver(record)

    async def greet(self, node_id: bytes) -> None:
        """A node has come: it may lack credits that were written while it was away."""
        for record in await self._store.unsent_credits(node_id):
            await self._deliver(record)

    async def _deliver(self, record: CreditRecord) -> None:
        note = self._note(record)
        self.signed += 1
        if self._send(record.node_id, note):
            await self._store.mark_sent(record.node_id, record.seq)

    def _note(self, record: CreditRecord) -> CreditNote:
        credit = Credit(self._key.address, record.node_id, record.cumulative, record.seq, record.receipts_root)
        signature = sign(self._key.secret, self._domain, credit)
        return CreditNote(
            credit.coordinator,
            credit.node_id,
            credit.cumulative,
            credit.seq,
            credit.receipts_root,
            signature,
            record.covers,
            record.held,
        )
