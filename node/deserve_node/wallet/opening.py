"""Opening a node's wallet as its settings say. Kept apart from `wallet`, which needs neither files nor a chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from deserve_ledger.amounts import parse_amount
from deserve_ledger.deployment import Deployment, read_deployment
from deserve_ledger.errors import InvalidField, KeystoreError, LedgerError
from deserve_ledger.keystore import Key, obtain_passphrase, open_keystore
from deserve_ledger.opening import opened_ledger
from deserve_ledger.prices import Prices
from deserve_network.identity import Identity
from deserve_node.settings import NodeSettings, SettingsError
from deserve_node.wallet.errors import WalletUnusable
from deserve_node.wallet.wallet import Wallet, open_receipt_key

__all__ = ["opened_wallet", "read_prices"]


def read_prices(settings: NodeSettings, deployment: Deployment) -> Prices:
    """Reserve prices in base units. Raises `SettingsError` naming the setting."""
    try:
        prefill, decode = (
            parse_amount(name, getattr(settings, name) or "0", deployment.decimals)
            for name in ("price_prefill", "price_decode")
        )
    except InvalidField as error:
        raise SettingsError(str(error)) from error
    return Prices(prefill, decode)


def _operator_key(settings: NodeSettings, operator: bytes) -> Key:
    """Raises `WalletUnusable`."""
    try:
        passphrase = obtain_passphrase(Path(settings.operator_passphrase_file), purpose=settings.operator_keystore)
        key = open_keystore(Path(settings.operator_keystore), passphrase)
    except KeystoreError as error:
        raise WalletUnusable(f"operator_keystore: {error}") from error
    if key.address != operator:
        raise WalletUnusable(f"operator_keystore: the key of 0x{key.address.hex()}, not of the operator")
    return key


@asynccontextmanager
async def opened_wallet(settings: NodeSettings, identity: Identity, passphrase: str) -> AsyncIterator[Wallet | None]:
    """The wallet while the node runs; None where the settings name no operator.

    Raises `SettingsError`, and `WalletUnusable` where key, file or ledger cannot be opened.
    """
    if not settings.operator:
        yield None
        return
    try:
        deployment = read_deployment(Path(settings.deployment))
    except InvalidField as error:
        raise SettingsError(f"deployment: {error}") from error
    prices = read_prices(settings, deployment)
    key = open_receipt_key(settings.data, passphrase)
    async with AsyncExitStack() as stack:
        opening = opened_ledger(
            deployment,
            key,
            settings.data / "ledger",
            url=settings.ledger_rpc or None,
            confirmations=settings.finality,
        )
        try:
            ledger = await stack.enter_async_context(opening)
        except LedgerError as error:
            raise WalletUnusable(f"ledger: {error}") from error
        operator = bytes.fromhex(settings.operator[2:])
        operator_ledger = None
        if settings.operator_keystore:
            operator_key = _operator_key(settings, operator)
            state = settings.data / "operator-ledger"
            operator_ledger = await stack.enter_async_context(
                opened_ledger(
                    deployment,
                    operator_key,
                    state,
                    url=settings.ledger_rpc or None,
                    confirmations=settings.finality,
                )
            )
        wallet = Wallet.open(
            settings.data,
            key,
            identity,
            operator,
            deployment.domain,
            prices,
            ledger,
            most_chunks=settings.unpaid_chunks,
            operator_ledger=operator_ledger,
        )
        stack.callback(wallet.close)
        yield wallet
