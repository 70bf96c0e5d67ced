"""`deserve ledger`: keys, and what an account does with the ledger itself."""

from __future__ import annotations

import click

from deserve_ledger.account_commands import claim, deposit, export, status, withdraw
from deserve_ledger.deploy_commands import deploy, faucet
from deserve_ledger.devnet_command import devnet
from deserve_ledger.key_commands import key

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Hold keys, deposit, withdraw, claim and look."""


for command in (claim, deploy, deposit, devnet, export, faucet, key, status, withdraw):
    ledger.add_command(command)
