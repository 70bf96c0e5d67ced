"""Opens the ledger that a coordinator pays through, with its key. The backends are imported when they are wanted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.money.policy import MoneyPolicy
from deserve_ledger.deployment import Deployment, read_deployment
from deserve_ledger.errors import InvalidField, KeystoreError
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import Key, obtain_passphrase, open_keystore

__all__ = ["LedgerConfig", "Purse", "load_account"]


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Where the ledger is, whose account this coordinator has there, and how it deals with money."""

    deployment: Path
    keystore: Path
    passphrase_file: Path | None = None
    rpc_url: str | None = None
    """Instead of the deployment's."""
    policy: MoneyPolicy = field(default_factory=MoneyPolicy)
    audits: AuditPolicy = field(default_factory=AuditPolicy)


@dataclass(frozen=True, slots=True)
class Purse:
    """A coordinator's account, opened. `key` is the key of `ledger.account`."""

    ledger: Ledger
    key: Key
    policy: MoneyPolicy
    audits: AuditPolicy = field(default_factory=lambda: AuditPolicy(mode="off"))


async def load_account(config: LedgerConfig) -> tuple[Deployment, Key]:
    """Raises `ConfigurationError` that names the file."""
    try:
        deployment = read_deployment(config.deployment)
        passphrase = obtain_passphrase(config.passphrase_file, purpose=str(config.keystore))
        # scrypt takes about a second.
        return deployment, await asyncio.to_thread(open_keystore, config.keystore, passphrase)
    except (InvalidField, KeystoreError) as error:
        raise ConfigurationError(str(error)) from error
