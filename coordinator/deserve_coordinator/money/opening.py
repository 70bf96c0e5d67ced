"""Opens the ledger that a coordinator pays through, with its key. The backends are imported when they are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.money.embedded_journal import DEFAULT_TERMS
from deserve_coordinator.money.policy import MoneyPolicy
from deserve_ledger.deployment import read_deployment
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.errors import InvalidField, KeystoreError
from deserve_ledger.finality import Confirmations
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import Key, obtain_passphrase, open_keystore
from deserve_ledger.records import Terms

__all__ = ["LedgerConfig", "Purse", "opened_purse"]


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Where the ledger is, whose account this coordinator has there, and how it deals with money."""

    deployment: Path | None
    """None: this coordinator keeps an embedded ledger itself."""
    keystore: Path
    passphrase_file: Path | None = None
    rpc_url: str | None = None
    """Instead of the deployment's."""
    confirmations: Confirmations | None = None
    """Blocks on top of one that counts as final; None: what is usual on that chain."""
    terms: Terms = DEFAULT_TERMS
    """Of an embedded ledger that begins now."""
    policy: MoneyPolicy = field(default_factory=MoneyPolicy)
    audits: AuditPolicy = field(default_factory=AuditPolicy)


@dataclass(frozen=True, slots=True)
class Purse:
    """A coordinator's account, opened. `key` is the key of `ledger.account`."""

    ledger: Ledger
    key: Key
    policy: MoneyPolicy
    audits: AuditPolicy = field(default_factory=lambda: AuditPolicy(mode="off"))
    journal: OwnedJournal | None = None
    """The embedded ledger, where it is this coordinator's own."""


@asynccontextmanager
async def opened_purse(config: LedgerConfig, data: Path) -> AsyncIterator[Purse]:
    """The account that `config` names, over its ledger; `data` is the coordinator's directory.

    Raises `ConfigurationError` that names the file, `ChainUnreachable`, and `RolledBack` for a journal that was cut.
    """
    try:
        passphrase = obtain_passphrase(config.passphrase_file, purpose=str(config.keystore))
        # scrypt takes about a second.
        key = await asyncio.to_thread(open_keystore, config.keystore, passphrase)
        deployment = None if config.deployment is None else read_deployment(config.deployment)
    except (InvalidField, KeystoreError) as error:
        raise ConfigurationError(str(error)) from error
    state = data / "ledger"
    if deployment is None:
        async with _own_journal(config, key, state) as purse:
            yield purse
        return
    from deserve_ledger.opening import opened_ledger

    opening = opened_ledger(deployment, key, state, url=config.rpc_url, confirmations=config.confirmations)
    async with opening as ledger:
        yield Purse(ledger, key, config.policy, config.audits)


@asynccontextmanager
async def _own_journal(config: LedgerConfig, key: Key, state: Path) -> AsyncIterator[Purse]:
    from deserve_ledger.embedded.journal import Journal
    from deserve_ledger.embedded.ledger import EmbeddedLedger

    def begin() -> Journal:
        state.mkdir(mode=0o700, exist_ok=True)
        return Journal(state / "journal.db", key.secret, config.terms)

    journal = OwnedJournal(await asyncio.to_thread(begin))
    try:
        ledger = EmbeddedLedger(journal, key.secret, state / "pending.json")
        yield Purse(ledger, key, config.policy, config.audits, journal)
    finally:
        journal.shut_down()
