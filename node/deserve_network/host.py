"""The libp2p host of one process: who we are, where we listen, streams to and from others.

`Host` is the only door to libp2p. It runs TCP with Noise and yamux in the trio thread (see `trio_thread`) and hands out
asyncio streams. It does not find peers or pass through NATs: a later `Discovery` (rendezvous, Kademlia) or `Traversal`
(relay, hole punching) plugs in where the protocols below say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from deserve_network.errors import NetworkError
from deserve_network.identity import Identity

if TYPE_CHECKING:
    from deserve_network.carrier import Carrier
    from deserve_network.direct_sockets import DirectSockets
    from deserve_network.stream import Stream

__all__ = ["Discovery", "Host", "StreamHandler", "Traversal"]

log = logging.getLogger(__name__)

StreamHandler = Callable[["Stream"], Awaitable[None]]


class Discovery(Protocol):
    """Where peers are, when only their id is known. Nothing implements it yet."""

    async def addresses_of(self, peer_id: str) -> Sequence[str]:
        """Multiaddresses with /p2p/, best first; empty where unknown."""


class Traversal(Protocol):
    """Addresses of ours that work through a NAT, for example relayed ones. Nothing implements it yet."""

    async def public_addresses(self, host: Host) -> Sequence[str]:
        """Multiaddresses to advertise besides `Host.addresses`; keeps their reservations alive until closed."""

    async def close(self) -> None: ...


class Host:
    """Listens, dials and accepts. Create with `Host.start`, end with `close`; belongs to one asyncio loop."""

    def __init__(self, carrier: Carrier, direct: DirectSockets | None) -> None:
        self._carrier = carrier
        self.direct = direct
        """Sockets for links beside libp2p's; None where this host has none."""
        self._handlers: set[asyncio.Task[None]] = set()
        self._closed = False
        self.handler_failures = 0
        """Stream handlers that ended with an error other than the network's."""

    @classmethod
    async def start(
        cls,
        identity: Identity,
        listen: Sequence[str] = (),
        *,
        tensor_port: int | None = None,
        congestion: str = "",
    ) -> Host:
        """Listen on `listen` (multiaddresses; /tcp/0 picks a free port). An empty list only dials.

        `tensor_port`: where links may have direct sockets, on the same addresses (0 picks a free port); None: they live
        on libp2p's streams. `congestion`: the congestion control of all sockets, empty for the system's. Raises
        `AddressError`, naming the address, where one is malformed, not TCP, or in use, and `CongestionError`.
        """
        from deserve_network.carrier import Carrier  # libp2p costs half a second to import
        from deserve_network.direct_handshake import direct_hosts
        from deserve_network.direct_sockets import DirectSockets

        carrier = await Carrier.start(identity, listen, congestion=congestion)
        try:
            if tensor_port is None:
                return cls(carrier, None)
            return cls(carrier, DirectSockets.open(direct_hosts(listen), tensor_port, congestion))
        except BaseException:
            await carrier.close()
            raise

    @property
    def peer_id(self) -> str:
        return self._carrier.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this host listens, with real ports and /p2p/; a wildcard stands as this machine's own addresses."""
        return self._carrier.addresses

    def handle(self, protocol: str, callback: StreamHandler) -> None:
        """Run `callback(stream)` as a task for each stream that a peer opens for `protocol`.

        The opener speaks first: a stream that brings nothing within 10 s is reset, and so is one over the limit of
        streams a peer may hold open. An error out of the callback resets its stream.
        """

        def accept(stream: Stream) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(callback, stream))
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)

        self._carrier.handle(protocol, accept)

    async def _serve(self, callback: StreamHandler, stream: Stream) -> None:
        try:
            await callback(stream)
        except NetworkError as error:
            log.debug("stream %s from %s: %s", stream.protocol, stream.peer_id, error)
            await stream.reset()
        except Exception:
            self.handler_failures += 1
            log.exception("handler of %s failed for %s", stream.protocol, stream.peer_id)
            await stream.reset()

    async def open_stream(self, target: str | Sequence[str], protocol: str, *, timeout_s: float = 10.0) -> Stream:
        """Open a stream to the peer that `target` names, connecting first where there is no connection.

        `target`: a multiaddress that ends in /p2p/<peer id>, or several of one peer, tried in order. Raises
        `AddressError` for a malformed one and `DialError` where none leads to that peer in time.
        """
        return await self._carrier.open_stream(
            [target] if isinstance(target, str) else list(target), protocol, timeout_s
        )

    async def disconnect(self, peer_id: str) -> None:
        """Drop every connection to a peer, and with them all its streams, without waiting for it."""
        await self._carrier.disconnect(peer_id)

    async def close(self) -> None:
        """Stop listening, drop every stream, end the thread. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        # libp2p first: a link whose socket ends would otherwise come back by it at once.
        await self._carrier.close()
        if self.direct is not None:
            await self.direct.close()

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
