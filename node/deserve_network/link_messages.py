"""The handshake of a link: the dialer sends `Open`, the acceptor answers `Opened` or `Refused`.

Both travel as OPEN frames (see `framing`) at the start of every stream of a link, the first and each later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.schema import Max, Table

__all__ = ["LINK", "MAX_NAME", "Open", "Opened", "Refused"]

MAX_NAME = 256
NONCE_BYTES = 16

Nonce = Annotated[bytes, Max(NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class Open:
    name: Annotated[str, Max(MAX_NAME)]
    """Pairs the two ends: ring, epoch and stage, separated by slashes."""
    session: Nonce
    """Random, of the dialer's end: a restarted process cannot pass for the one that was lost."""
    peer_session: Nonce
    """The acceptor's, as the dialer knows it; empty as long as it has never had an answer."""
    received: int
    consumed: int
    window_bytes: int
    """Unconsumed bytes that the dialer is ready to hold."""
    window_frames: int


@dataclass(frozen=True, slots=True)
class Opened:
    session: Nonce
    received: int
    consumed: int
    window_bytes: int
    window_frames: int


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str
    retry: bool
    """True where the name is only not known yet."""


LINK = Table("link", {1: Open, 2: Opened, 3: Refused}, max_bytes=4096)
