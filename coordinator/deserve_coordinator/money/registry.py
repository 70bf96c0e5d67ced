"""Which nodes are paid: those whose two keys vouch for each other and who are registered, with a stake, as they say."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.money.tariff import StageTerms
from deserve_ledger.binding import Binding, check_binding
from deserve_ledger.errors import BadSignature, ChainUnreachable, InvalidField
from deserve_ledger.interface import Ledger
from deserve_network.errors import IdentityError
from deserve_network.identity import public_key_of
from deserve_network.money_messages import Account, LedgerRef, Prices

__all__ = ["NodeAccount", "Registry"]


@dataclass(frozen=True, slots=True)
class NodeAccount:
    """Who is paid for a node's work, and what it asks for it."""

    node_id: bytes
    operator: bytes
    receipt_key: bytes
    prices: Prices

    def terms(self, first: int, last: int) -> StageTerms:
        return StageTerms(self.node_id, first, last, self.prices.prefill, self.prices.decode)


class Registry:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def ref(self) -> LedgerRef:
        """What nodes are told."""
        domain = self._ledger.domain
        return LedgerRef(domain.chain_id, domain.contract, self._ledger.account)

    async def admit(self, peer_id: str, account: Account | None, prices: Prices | None) -> NodeAccount:
        """Raises `ProtocolViolation` that names the field. A node without an account has no stake to lose, so what it
        computes is worth nothing to who pays: it is refused, too.
        """
        if account is None:
            raise ProtocolViolation("account", "this coordinator pays for work, and takes registered nodes only")
        try:
            peer_key = public_key_of(peer_id)
        except IdentityError as error:
            raise ProtocolViolation("peer_id", str(error)) from error
        signatures = (account.receipt_signature, account.peer_signature)
        binding = Binding(account.operator, peer_key, account.receipt_key, account.nonce, *signatures)
        try:
            node_id = check_binding(self._ledger.domain, binding)
        except InvalidField as error:
            raise ProtocolViolation(f"account.{error.field}", str(error)) from error
        except BadSignature as error:
            part = "peer_signature" if str(error).startswith("peer_signature") else "receipt_signature"
            raise ProtocolViolation(f"account.{part}", str(error)) from error
        await self._check_registered(node_id, account)
        return NodeAccount(node_id, account.operator, account.receipt_key, prices or Prices())

    async def _check_registered(self, node_id: bytes, account: Account) -> None:
        try:
            record = await self._ledger.node(node_id)
        except ChainUnreachable as error:
            # `message` is a reason that passes: the node tries again.
            raise ProtocolViolation("message", f"the ledger cannot be asked just now: {error}") from error
        if record.operator != account.operator:
            raise ProtocolViolation("account.operator", "this node is not registered on the ledger")
        if record.receipt_key != account.receipt_key:
            raise ProtocolViolation("account.receipt_key", "the ledger has another receipt key for this node")
        if record.slashed:
            raise ProtocolViolation("account", "this node was slashed")
        if record.unbonds_at_s:
            raise ProtocolViolation("account", "this node withdraws its stake")
        if record.stake < self._ledger.terms.min_stake:
            reason = f"the stake is {record.stake}, at least {self._ledger.terms.min_stake} is asked for"
            raise ProtocolViolation("account", reason)
