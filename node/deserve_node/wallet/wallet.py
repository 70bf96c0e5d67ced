"""A node's wallet: the key that signs its receipts, whose account is paid for them, at what prices, and what it holds.

The receipt key is the node's own and can neither spend nor withdraw: what it earns goes to the operator's account,
whose key is never on this machine unless its owner wants to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deserve_ledger.binding import Binding, bind
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import KeystoreError
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import STANDARD_SCRYPT_N, Key, create_keystore, open_keystore
from deserve_ledger.prices import Prices
from deserve_network import money_messages
from deserve_network.identity import Identity
from deserve_network.money_messages import Account, LedgerRef
from deserve_node.wallet.engagement import Engagement, Patience, Reservations
from deserve_node.wallet.errors import WalletUnusable
from deserve_node.wallet.store import Debtor, WalletStore

__all__ = ["NONCE", "RECEIPT_KEY_FILE", "STORE_FILE", "Wallet", "open_receipt_key"]

RECEIPT_KEY_FILE = "receipt-key.json"
STORE_FILE = "wallet.sqlite"
NONCE = 0
"""Of `BindNode`. A node has one receipt key for life: another key is another node."""


def open_receipt_key(data: Path, passphrase: str, *, scrypt_n: int = STANDARD_SCRYPT_N) -> Key:
    """The receipt key in the node's data directory, made on first use. Raises `WalletUnusable`."""
    file = data / RECEIPT_KEY_FILE
    try:
        return (
            open_keystore(file, passphrase) if file.exists() else create_keystore(file, passphrase, scrypt_n=scrypt_n)
        )
    except KeystoreError as error:
        raise WalletUnusable(str(error)) from error


@dataclass(frozen=True, slots=True)
class Wallet:
    key: Key
    """The receipt key."""
    binding: Binding
    domain: Domain
    prices: Prices
    """Reserve prices: what this node asks at least."""
    store: WalletStore
    ledger: Reservations
    most_chunks: int
    patience: Patience
    operator_ledger: Ledger | None = None
    """As the operator's account sees it, where its key is here: to vote on panels."""

    @classmethod
    def open(
        cls,
        data: Path,
        key: Key,
        identity: Identity,
        operator: bytes,
        domain: Domain,
        prices: Prices,
        ledger: Reservations,
        *,
        most_chunks: int = 1,
        patience: Patience | None = None,
        operator_ledger: Ledger | None = None,
    ) -> Wallet:
        """Raises `WalletUnusable` where its file cannot be used."""
        binding = bind(domain, operator, identity.secret, key, NONCE)
        store = WalletStore(data / STORE_FILE)
        return cls(key, binding, domain, prices, store, ledger, most_chunks, patience or Patience(), operator_ledger)

    @property
    def node_id(self) -> bytes:
        return self.binding.node_id

    @property
    def account(self) -> Account:
        """What an Offer says of this node."""
        bound = self.binding
        return Account(bound.operator, bound.receipt_key, bound.nonce, bound.receipt_signature, bound.peer_signature)

    @property
    def asked(self) -> money_messages.Prices:
        return money_messages.Prices(self.prices.prefill, self.prices.decode)

    def fault(self, ledger: LedgerRef | None) -> str | None:
        """Why this node does not work for a coordinator that pays through `ledger`, in words; None where it does."""
        if ledger is None:
            return None if self.prices == Prices(0, 0) else "it pays nothing, and this node asks a price"
        if (ledger.chain_id, ledger.contract) != (self.domain.chain_id, self.domain.contract):
            here, there = self.domain, f"0x{ledger.contract.hex()} on chain {ledger.chain_id}"
            return f"it pays through {there}, this node through 0x{here.contract.hex()} on chain {here.chain_id}"
        return None

    def debtor(self, ledger: LedgerRef) -> Debtor:
        return Debtor(self.domain, ledger.coordinator, self.node_id)

    def engage(self, ledger: LedgerRef) -> Engagement:
        return Engagement(
            self.debtor(ledger),
            self.store,
            self.prices,
            self.ledger,
            most_chunks=self.most_chunks,
            patience=self.patience,
        )

    def close(self) -> None:
        self.store.close()
