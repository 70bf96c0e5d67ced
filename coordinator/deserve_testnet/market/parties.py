"""The accounts of a testnet: coordinator, payer and one operator a node, each with a key file of its own.

The files are like those of real parties, but one passphrase opens all of them and guessing it would cost nothing: they
are worth as much as the money of a development chain.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deserve_ledger.keystore import Key, create_keystore, open_keystore

__all__ = ["Parties", "Party"]

_SCRYPT_N = 2
"""Cost of a guess. A real key file asks a second of processor time for each, and a testnet opens dozens."""


@dataclass(frozen=True, slots=True)
class Party:
    name: str
    keystore: Path
    key: Key

    @property
    def address(self) -> str:
        """In hex, as flags take it."""
        return f"0x{self.key.address.hex()}"


class Parties:
    """Key files in `directory`; those that are there already are used again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self.passphrase_file = directory / "passphrase"
        if not self.passphrase_file.exists():
            handle = os.open(self.passphrase_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_urlsafe(16) + "\n")
        self.passphrase = self.passphrase_file.read_text().strip()
        self._known: dict[str, Party] = {}

    @property
    def coordinator(self) -> Party:
        return self.party("coordinator")

    @property
    def payer(self) -> Party:
        return self.party("payer")

    def operator(self, node: str) -> Party:
        """Whose account is paid for what the node of this name does."""
        return self.party(f"operator of {node}")

    def party(self, name: str) -> Party:
        """Raises `KeystoreError` for a file that is none of ours."""
        if name not in self._known:
            file = self._directory / f"{name.replace(' ', '-')}.json"
            if file.exists():
                key = open_keystore(file, self.passphrase)
            else:
                key = create_keystore(file, self.passphrase, scrypt_n=_SCRYPT_N)
            self._known[name] = Party(name, file, key)
        return self._known[name]

    def __iter__(self) -> Iterator[Party]:
        """Those that were asked for so far, in that order."""
        return iter(self._known.values())
