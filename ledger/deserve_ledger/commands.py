"""`deserve ledger`: keys, and what an account does with the ledger itself."""

from __future__ import annotations

import click

from deserve_ledger.devnet_command import devnet
from deserve_ledger.key_commands import key

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Hold keys, deposit, withdraw, claim and look."""


ledger.add_command(devnet)
ledger.add_command(key)
