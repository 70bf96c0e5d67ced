"""The ten funded accounts of a development chain: those of anvil and hardhat, so that a key works on all of them.

Everybody knows these keys. They are for chains whose money is worth nothing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

__all__ = ["ACCOUNTS", "FUNDS_WEI", "MNEMONIC", "development_account", "development_key"]

MNEMONIC = "test test test test test test test test test test test junk"
ACCOUNTS = 10
FUNDS_WEI = 10**24
"""A million ether, what each of them has in the first block."""


@functools.lru_cache(maxsize=64)
def development_account(number: int) -> LocalAccount:
    """Account `number` at the path m/44'/60'/0'/0/`number` (BIP-44) of the well-known mnemonic."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    account: LocalAccount = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{number}")
    return account


def development_key(number: int) -> bytes:
    """Its private key, 32 bytes."""
    return bytes(development_account(number).key)
