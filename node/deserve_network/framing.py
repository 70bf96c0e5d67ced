"""Frames: a fixed preamble, a msgpack header, a raw payload.

    offset  size  field
    0       2     magic "DS"
    2       1     version, 1
    3       1     kind (`Kind`)
    4       4     header length, bytes
    8       4     payload length, bytes
    12      8     sequence number of this frame, from 1; 0 where the kind has none
    20      8     received: highest sequence number that the sender of this frame has received in order
    28      8     consumed: highest sequence number that the sender's owner has taken

Integers are big-endian. Lengths are checked before a byte is allocated for them. Payloads (tensors) are written from
the caller's buffers and never pass through msgpack. What the numbers mean for delivery is in `link_state`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deserve_network.errors import ProtocolError

if TYPE_CHECKING:
    from deserve_network.byte_stream import Buffer, ByteStream

__all__ = [
    "PREAMBLE_BYTES",
    "PROBE_BYTES",
    "Kind",
    "Limits",
    "Preamble",
    "byte_views",
    "read_content",
    "read_frame",
    "read_preamble",
]

MAGIC = b"DS"
VERSION = 1
PROBE_BYTES = 1 << 20
"""The most that one PROBE carries."""
_LAYOUT = struct.Struct(">2sBBIIQQQ")
PREAMBLE_BYTES = _LAYOUT.size


class Kind(enum.IntEnum):
    DATA = 1
    """A message of the protocol's table, with a payload on links."""
    PING = 2
    """Answered by a PONG with the same sequence number; no header, no payload."""
    PONG = 3
    ACK = 4
    """Carries `received` and `consumed` only."""
    OPEN = 5
    """Handshake of a link, a message of `LINK`."""
    CLOSE = 6
    """The sender has closed the link for good; nothing follows."""
    PROBE = 7
    """A payload that nobody reads, to measure how fast it travels; answered by a PROBED of the same sequence."""
    PROBED = 8
    """When the PROBE had arrived: a payload of 8 bytes, nanoseconds on a clock of the sender's own."""


_CONTENT = {Kind.DATA: (2**32, 2**32), Kind.OPEN: (2**32, 2**32), Kind.PROBE: (0, PROBE_BYTES), Kind.PROBED: (0, 8)}
"""Bytes of header and payload that a kind may declare, `Limits` apart; none for the others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one frame may declare, in bytes."""

    header_bytes: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Preamble:
    kind: Kind
    header_bytes: int = 0
    payload_bytes: int = 0
    sequence: int = 0
    received: int = 0
    consumed: int = 0

    def encode(self) -> bytes:
        return _LAYOUT.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.header_bytes,
            self.payload_bytes,
            self.sequence,
            self.received,
            self.consumed,
        )

    @classmethod
    def decode(cls, data: bytes | bytearray, limits: Limits) -> Preamble:
        """Raises `ProtocolError` for another magic, version or kind, and for a length over `limits`."""
        magic, version, kind, header, payload, sequence, received, consumed = _LAYOUT.unpack(data)
        if magic != MAGIC:
            raise ProtocolError(f"not a frame: starts with {magic!r}")
        if version != VERSION:
            raise ProtocolError(f"frame version {version}, expected {VERSION}")
        try:
            kind = Kind(kind)
        except ValueError:
            raise ProtocolError(f"unknown frame kind {kind}") from None
        if header > limits.header_bytes:
            raise ProtocolError(f"header of {header} bytes, at most {limits.header_bytes}")
        if payload > limits.payload_bytes:
            raise ProtocolError(f"payload of {payload} bytes, at most {limits.payload_bytes}")
        most = _CONTENT.get(kind, (0, 0))
        if header > most[0] or payload > most[1]:
            raise ProtocolError(f"{kind.name} frame with {header + payload} bytes of content")
        return cls(kind, header, payload, sequence, received, consumed)


async def read_frame(stream: ByteStream, limits: Limits) -> tuple[Preamble, bytearray, bytearray]:
    """The next frame's preamble, header and payload. Raises `ProtocolError` and `StreamClosed`."""
    preamble = await read_preamble(stream, limits)
    header, payload = await read_content(stream, preamble)
    return preamble, header, payload


async def read_preamble(stream: ByteStream, limits: Limits) -> Preamble:
    """The first half of `read_frame`: nothing is allocated yet for what the frame declares."""
    return Preamble.decode(await stream.read_exactly(PREAMBLE_BYTES), limits)


async def read_content(stream: ByteStream, preamble: Preamble) -> tuple[bytearray, bytearray]:
    """The second half of `read_frame`: header and payload."""
    header = await stream.read_exactly(preamble.header_bytes) if preamble.header_bytes else bytearray()
    payload = await stream.read_exactly(preamble.payload_bytes) if preamble.payload_bytes else bytearray()
    return header, payload


def byte_views(buffers: Sequence[Buffer]) -> list[memoryview]:
    """Flat byte views of contiguous buffers, uncopied; empty ones dropped. Raises `TypeError` where not contiguous."""
    return [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
