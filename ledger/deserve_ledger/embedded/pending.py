"""The one call that an account has signed and not yet heard of, on disk.

An account that was killed after it had sent a call asks again for what it wanted. It then sends the same signature
under the same nonce, so that the call takes effect once.
"""

from __future__ import annotations

import json
from pathlib import Path

from deserve_ledger.embedded.durable_file import write_durably
from deserve_ledger.embedded.entries import SignedCall
from deserve_ledger.embedded.plain import from_plain, to_plain

__all__ = ["PendingCall"]


class PendingCall:
    """Kept in the file `path`, which belongs to one account of one journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.signed: SignedCall | None = None
        if path.exists():
            self.signed = from_plain(SignedCall | None, json.loads(path.read_text()))

    def remember(self, signed: SignedCall | None) -> None:
        """On disk when this returns; None: nothing is unheard of."""
        write_durably(self._path, json.dumps(to_plain(signed)).encode())
        self.signed = signed
