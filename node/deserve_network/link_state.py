"""What a link remembers across its streams: which frames are sent, received, consumed, and who may send how much.

Pure: no clock, socket or task. Every frame has a sequence number from 1. A frame is kept until the peer has received
it, and counts against the peer's window until the peer's owner has consumed it, so that an owner who stalls stops the
sender and never the stream: py-libp2p resets a stream whose reader stands still for five seconds.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from deserve_network.errors import ProtocolError

__all__ = ["LinkState", "Outgoing", "Window"]

F = TypeVar("F")

PRESSING = 4
"""News of a quarter of the window cannot wait: three quarters are left to send while it travels."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one end holds for an owner that has not taken it yet."""

    nbytes: int = 64 << 20
    frames: int = 256


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[F]):
    sequence: int
    nbytes: int
    frame: F


class LinkState(Generic[F]):
    """One end. `window` is ours; the peer's becomes known with the first handshake (`resume`)."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.peer_window: Window | None = None
        # As the sender.
        self.sent = 0
        self.peer_received = 0
        self.peer_consumed = 0
        self._unreceived: collections.deque[Outgoing[F]] = collections.deque()
        self._unconsumed: collections.deque[int] = collections.deque()
        self._unconsumed_bytes = 0
        # As the receiver.
        self.received = 0
        self.consumed = 0
        self._held: collections.deque[int] = collections.deque()
        self._held_bytes = 0
        self._told = (0, 0)
        self._untold_bytes = 0

    def room_for(self, nbytes: int) -> bool:
        """May a frame of this size be sent now? One larger than the window goes alone."""
        if self.peer_window is None:
            return False
        if not self._unconsumed:
            return True
        return (
            len(self._unconsumed) < self.peer_window.frames
            and self._unconsumed_bytes + nbytes <= self.peer_window.nbytes
        )

    def send(self, frame: F, nbytes: int) -> Outgoing[F]:
        """Number a frame and keep it until the peer has it. Only where there is `room_for` it."""
        if not self.room_for(nbytes):
            raise ValueError("no room in the peer's window")
        self.sent += 1
        outgoing = Outgoing(self.sent, nbytes, frame)
        self._unreceived.append(outgoing)
        self._unconsumed.append(nbytes)
        self._unconsumed_bytes += nbytes
        return outgoing

    def heard(self, received: int, consumed: int) -> None:
        """The peer's two counters, from any frame. Numbers that go back are old news; raises `ProtocolError`."""
        if not consumed <= received <= self.sent:
            raise ProtocolError(f"peer claims received {received}, consumed {consumed} of {self.sent} frames sent")
        while self.peer_received < received:
            self._unreceived.popleft()
            self.peer_received += 1
        while self.peer_consumed < consumed:
            self._unconsumed_bytes -= self._unconsumed.popleft()
            self.peer_consumed += 1

    def resume(self, received: int, consumed: int, peer_window: Window) -> Iterator[Outgoing[F]]:
        """A new stream stands: what the peer said in the handshake; returns the frames to send again."""
        if received < self.peer_received:
            raise ProtocolError(f"peer forgot frames: had {self.peer_received}, now says {received}")
        self.peer_window = peer_window
        self.heard(received, consumed)
        return iter(tuple(self._unreceived))

    @property
    def all_received(self) -> bool:
        return not self._unreceived

    def accept(self, sequence: int, nbytes: int) -> bool:
        """A frame arrived: True for the next one, False for one we have. Raises `ProtocolError` on a gap or excess."""
        if sequence <= self.received:
            return False
        if sequence != self.received + 1:
            raise ProtocolError(f"frame {sequence} after frame {self.received}")
        if self._held and (len(self._held) >= self.window.frames or self._held_bytes + nbytes > self.window.nbytes):
            raise ProtocolError(f"frame {sequence} exceeds the window of {self.window.nbytes} bytes")
        self.received = sequence
        self._held.append(nbytes)
        self._held_bytes += nbytes
        return True

    def consume(self) -> None:
        """The owner took the oldest frame it had not taken."""
        nbytes = self._held.popleft()
        self._held_bytes -= nbytes
        self._untold_bytes += nbytes
        self.consumed += 1

    def tell(self) -> tuple[int, int]:
        """The counters to put into a frame that leaves now."""
        self._told = (self.received, self.consumed)
        self._untold_bytes = 0
        return self._told

    @property
    def owes_news(self) -> bool:
        """Do the counters differ from what the peer was last told?"""
        return self._told != (self.received, self.consumed)

    @property
    def news_is_pressing(self) -> bool:
        """Has so much been consumed since that the sender may soon stand still for not knowing it?"""
        return (
            self.consumed - self._told[1] >= max(1, self.window.frames // PRESSING)
            or self._untold_bytes >= self.window.nbytes // PRESSING
        )
