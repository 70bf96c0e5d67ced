from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from debts import DEBTOR, Clock, Vault

from deserve_ledger.prices import Prices
from deserve_node.wallet.engagement import Engagement, Patience
from deserve_node.wallet.store import WalletStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WalletStore]:
    store = WalletStore(tmp_path / "wallet.sqlite")
    yield store
    store.close()


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engagement(store: WalletStore, vault: Vault, clock: Clock) -> Engagement:
    return Engagement(
        DEBTOR, store, Prices(1_000_000, 2_000_000), vault, patience=Patience(0.05, 0.005, 300.0), clock=clock
    )
