"""Why a dial or a stream failed, in an operator's words: libp2p wraps the cause several times."""

from __future__ import annotations

import os
import socket

from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

__all__ = ["dial_failure"]


def dial_failure(error: BaseException) -> str:
    """The innermost cause in words; of several attempts at one address, the first one's."""
    while True:
        if isinstance(error, PeerIDMismatchesPubkey):
            # Its text ends "..., remote_peer_id_from_pubkey=<who answered>".
            found = str(error).rpartition("=")[2]
            return f"somebody else is there: peer {found} answers, so the address or its /p2p/ part is wrong"
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
