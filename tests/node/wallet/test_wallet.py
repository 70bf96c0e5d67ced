"""What a node says of its account, and for whom it works."""

from __future__ import annotations

import pytest
from debts import DOMAIN, Vault

from deserve_ledger.binding import Binding, check_binding
from deserve_ledger.prices import Prices
from deserve_network.identity import generate_identity, public_key_of
from deserve_network.money_messages import LedgerRef
from deserve_node.wallet.errors import WalletUnusable
from deserve_node.wallet.wallet import RECEIPT_KEY_FILE, Wallet, open_receipt_key

OPERATOR = b"\x0e" * 20
HERE = LedgerRef(DOMAIN.chain_id, DOMAIN.contract, b"\x0f" * 20)


@pytest.fixture
def wallet(tmp_path):
    identity = generate_identity()
    key = open_receipt_key(tmp_path, "words", scrypt_n=2)
    wallet = Wallet.open(tmp_path, key, identity, OPERATOR, DOMAIN, Prices(1, 2), Vault())
    yield wallet, identity
    wallet.close()


def test_whoever_met_the_peer_can_check_its_account(wallet):
    wallet, identity = wallet
    said = wallet.account
    binding = Binding(
        said.operator, public_key_of(identity.peer_id), said.receipt_key, said.nonce, said.receipt_signature,
        said.peer_signature,
    )  # fmt: skip
    assert check_binding(DOMAIN, binding) == wallet.node_id
    assert said.operator == OPERATOR
    assert said.receipt_key == wallet.key.address


def test_the_receipt_key_stays_the_same_and_needs_its_passphrase(tmp_path):
    key = open_receipt_key(tmp_path, "words", scrypt_n=2)
    assert open_receipt_key(tmp_path, "words") == key
    with pytest.raises(WalletUnusable, match=f"{RECEIPT_KEY_FILE}: wrong passphrase"):
        open_receipt_key(tmp_path, "others")


@pytest.mark.parametrize(
    ("ledger", "reason"),
    [
        (None, "pays nothing"),
        (LedgerRef(1, DOMAIN.contract, b"\x0f" * 20), "on chain 1, this node through"),
        (LedgerRef(DOMAIN.chain_id, b"\x01" * 20, b"\x0f" * 20), "0x01010101"),
        (HERE, None),
    ],
)
def test_it_works_only_for_who_pays_where_its_operator_collects(wallet, ledger, reason):
    fault = wallet[0].fault(ledger)
    assert (fault is None) if reason is None else (reason in fault)


def test_who_asks_no_price_works_for_who_pays_nothing(tmp_path):
    key = open_receipt_key(tmp_path, "words", scrypt_n=2)
    wallet = Wallet.open(tmp_path, key, generate_identity(), OPERATOR, DOMAIN, Prices(0, 0), Vault())
    assert wallet.fault(None) is None
    wallet.close()
