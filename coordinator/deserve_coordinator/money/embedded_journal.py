"""A coordinator that keeps the ledger itself, in a journal: for a pilot among people who trust each other's records.

It is then the journal's owner and a party in it. What it can and cannot do with that is in docs/ledger.md; nodes and
payers read and write it over HTTP, under `/ledger`, and keep the heads that it signs.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from aiohttp import web

from deserve_coordinator.errors import ConfigurationError
from deserve_ledger.deployment import EMBEDDED_CHAIN_ID, Deployment, write_deployment
from deserve_ledger.embedded.entries import journal_domain
from deserve_ledger.embedded.local import OwnedJournal
from deserve_ledger.embedded.server import journal_application
from deserve_ledger.records import Terms

__all__ = ["DEFAULT_TERMS", "JOURNAL_PATH", "mount_journal", "publish_journal", "read_terms"]

JOURNAL_PATH = "/ledger"
_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
_TOKEN = 10**18

DEFAULT_TERMS = Terms(
    challenge_window_s=3 * _DAY_S,
    audit_retention_s=_DAY_S,
    unbonding_s=7 * _DAY_S,
    refund_grace_s=_DAY_S,
    release_delay_s=3 * _DAY_S,
    draw_delay_blocks=2,
    commit_period_s=6 * _HOUR_S,
    reveal_period_s=6 * _HOUR_S,
    min_stake=100 * _TOKEN,
    challenge_bond=10 * _TOKEN,
)


def read_terms(file: Path) -> Terms:
    """TOML with any of the fields of `Terms`; the others as in `DEFAULT_TERMS`. Raises `ConfigurationError`."""
    values = {name: getattr(DEFAULT_TERMS, name) for name in Terms.__dataclass_fields__}
    try:
        given = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--ledger-terms {file}: {error}") from error
    for name, value in given.items():
        if name not in values:
            raise ConfigurationError(f"--ledger-terms {file}: {name}: no such term")
        if type(value) is not int or value < 0:
            raise ConfigurationError(f"--ledger-terms {file}: {name}: {value!r} is no whole number")
        values[name] = value
    return Terms(**values)


def mount_journal(application: web.Application, journal: OwnedJournal) -> None:
    """Serve the journal beside the API. Its calls are signed and it asks for no key."""
    application.add_subapp(JOURNAL_PATH, journal_application(journal))


def publish_journal(file: Path, journal: OwnedJournal, address: str) -> None:
    """Write the deployment file for nodes and payers; `address` is where this coordinator serves HTTP."""
    domain = journal_domain(journal.owner)
    url = f"http://{address}{JOURNAL_PATH}"
    write_deployment(file, Deployment(url, EMBEDDED_CHAIN_ID, domain.contract, owner=journal.owner))
