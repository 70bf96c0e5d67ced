"""The handshake of a link: the dialer sends `Open`, the acceptor answers `Opened` or `Refused`.

All travel as OPEN frames (see `framing`) at the start of every stream of a link, the first and each later one. Where
`Opened` offers a direct socket (see `direct_sockets`), the dialer sends `Attach` on that one, is answered `Attached`,
and says `Carried` on the libp2p stream, or says there that it did not get through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.byte_stream import ByteStream
from deserve_network.errors import ProtocolError
from deserve_network.framing import Kind, Limits, Preamble, read_frame
from deserve_network.schema import Max, Min, Table

__all__ = [
    "LINK",
    "MAX_NAME",
    "NONCE_BYTES",
    "TOKEN_BYTES",
    "Attach",
    "Attached",
    "Carried",
    "DirectOffer",
    "LinkMessage",
    "Open",
    "Opened",
    "Refused",
    "read_message",
    "write_message",
]

MAX_NAME = 256
NONCE_BYTES = 16
TOKEN_BYTES = 32
PIN_BYTES = 32

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
    direct: bool
    """Whether the dialer would try a direct socket."""


@dataclass(frozen=True, slots=True)
class DirectOffer:
    """A direct socket to the acceptor: where, how to know it, and what to show there."""

    port: Annotated[int, Min(1), Max(65535)]
    """Of TCP, at the addresses of the libp2p host."""
    certificate: Annotated[bytes, Max(PIN_BYTES)]
    """SHA-256 of what the acceptor will show in TLS."""
    token: Annotated[bytes, Max(TOKEN_BYTES)]


@dataclass(frozen=True, slots=True)
class Opened:
    session: Nonce
    received: int
    consumed: int
    window_bytes: int
    window_frames: int
    offer: DirectOffer | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str
    retry: bool
    """True where the name is only not known yet."""


@dataclass(frozen=True, slots=True)
class Attach:
    """The first on a direct socket, from the dialer."""

    token: Annotated[bytes, Max(TOKEN_BYTES)]


@dataclass(frozen=True, slots=True)
class Attached:
    """The token is the one expected."""


@dataclass(frozen=True, slots=True)
class Carried:
    """On the libp2p stream, from the dialer: what the link lives on from here."""

    direct: bool


LinkMessage = Open | Opened | Refused | Attach | Attached | Carried

LINK = Table("link", {1: Open, 2: Opened, 3: Refused, 4: Attach, 5: Attached, 6: Carried}, max_bytes=4096)


async def write_message(stream: ByteStream, message: LinkMessage) -> None:
    """Raises `StreamClosed`."""
    header = LINK.encode(message)
    await stream.write([Preamble(Kind.OPEN, len(header)).encode(), header])


async def read_message(stream: ByteStream) -> LinkMessage:
    """Raises `StreamClosed` and `ProtocolError`."""
    preamble, header, _ = await read_frame(stream, Limits(LINK.max_bytes, 0))
    if preamble.kind is not Kind.OPEN:
        raise ProtocolError(f"{preamble.kind.name} frame before the handshake")
    message: LinkMessage = LINK.decode(header)
    return message
