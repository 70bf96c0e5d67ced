"""What a link asks of the stream that it lives on, whichever way the bytes travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Buffer", "ByteStream"]

Buffer = bytes | bytearray | memoryview


class ByteStream(Protocol):
    """A duplex byte stream to `peer_id`. One task may read and any number may write; a write is never interleaved."""

    @property
    def peer_id(self) -> str: ...

    @property
    def carrier(self) -> str:
        """What the bytes travel on, in a word."""

    @property
    def bytes_received(self) -> int: ...

    async def read_exactly(self, count: int) -> bytearray:
        """The next `count` bytes, in a buffer of their own. Raises `StreamClosed` where the stream ends before."""

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Send one-dimensional byte buffers back to back, as one unit; returns once they are on their way.

        They are not copied and must not change until then, or after a cancelled call. Raises `StreamClosed`.
        """

    def use_congestion(self, name: str) -> None:
        """Let TCP use this congestion control for what is sent from here. A stream that shares its connection with
        others leaves it as it is. Raises `CongestionError`."""

    async def close(self) -> None:
        """Send what is queued, then say that nothing follows. Unread bytes are dropped; never raises."""

    async def reset(self) -> None:
        """End the stream at once in both directions; what was queued may be lost. Never raises."""
