"""Numbered SQL files bring a database to the newest schema; what ran is recorded in `schema_version`.

Each file runs once, in its own transaction, in the order of its number. There is no way down.
"""

from __future__ import annotations

import sqlite3
from importlib import resources

from deserve_coordinator.errors import StoreError

__all__ = ["migrate", "migrations"]


def migrations() -> list[tuple[int, str]]:
    """(number, SQL text) of every migration that ships with the package, ascending."""
    folder = resources.files("deserve_coordinator.store") / "migrations"
    found = [
        (int(entry.name.split("_")[0]), entry.read_text()) for entry in folder.iterdir() if entry.name[-4:] == ".sql"
    ]
    return sorted(found)


def migrate(connection: sqlite3.Connection) -> int:
    """Apply what is missing and return the version reached. Raises `StoreError` for a database from the future."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)")
    (reached,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    known = migrations()
    if reached > known[-1][0]:
        raise StoreError(f"the database has schema {reached}, this program knows {known[-1][0]}")
    for number, text in known:
        if number > reached:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{text}\nINSERT INTO schema_version VALUES ({number});\nCOMMIT;"
            )
            reached = number
    return int(reached)
