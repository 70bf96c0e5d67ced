"""A journal and accounts that write into it, for tests."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from ledger_parties import TERMS, address_of, key_of

from deserve_ledger.embedded.entries import SignedCall, journal_domain, sign_call
from deserve_ledger.embedded.journal import Journal

OWNER_KEY = key_of("the owner of a journal")
OWNER = address_of(OWNER_KEY)
NOW_S = 1_800_000_000


def open_journal(folder: Path, **options: Any) -> Journal:
    options.setdefault("clock", lambda: float(NOW_S))
    return Journal(folder / "journal.sqlite", OWNER_KEY, TERMS, **options)


def signed_by(key: bytes, nonce: int, call: Any, expires_s: int = NOW_S + 60) -> SignedCall:
    return sign_call(key, address_of(key), journal_domain(OWNER), nonce, expires_s, call)


def edit(folder: Path, statement: str) -> list[Any]:
    """What nobody should do to a journal."""
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()
