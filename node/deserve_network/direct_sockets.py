"""TLS sockets between two hosts that know each other through libp2p: the carrier of tensors where a direct way exists.

libp2p's streams cost three times the processor time. So the acceptor of a link tells the dialer, over their libp2p
stream, a port, the hash of its certificate and a token that is good once. The dialer connects, compares the certificate
with the hash before it says a word, and shows the token; nobody else can know it, and nobody else can read it. Both
ends therefore are who libp2p said they are, and the TLS keys are fresh. A stranger gets a socket only while somebody is
expected, only one of a few, and not for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

from deserve_network.certificate import Certificate, dialing_context, make_certificate, pin_of
from deserve_network.congestion import set_congestion
from deserve_network.direct_stream import DirectStream, handshake
from deserve_network.errors import AddressError, DialError, NetworkError, ProtocolError
from deserve_network.link_messages import TOKEN_BYTES, Attach, Attached, DirectOffer, read_message, write_message

__all__ = ["DirectSockets", "Expected"]

log = logging.getLogger(__name__)

PENDING = 32
"""Sockets whose token is not known yet."""
ADMIT_S = 10.0
CONNECT_S = 4.0
"""For one address, with its TLS handshake: three round trips; and for a name's addresses to be found."""
DIAL_S = 8.0
"""For all addresses."""
BACKLOG = 64
UNSENT_BYTES = 128 << 10
"""What the kernel may hold beyond what is in flight: on a slow uplink more would queue before a heartbeat."""
ACCEPT_AGAIN_S = 1.0


class Expected:
    """Somebody to whom an offer was made. `stream` is there once they came."""

    def __init__(self, offer: DirectOffer, peer_id: str) -> None:
        self.offer = offer
        self.peer_id = peer_id
        self.stream: DirectStream | None = None

    def take(self) -> DirectStream:
        """The stream, now the caller's. Raises `ProtocolError` where nobody came."""
        stream, self.stream = self.stream, None
        if stream is None:
            raise ProtocolError(f"{self.peer_id} says that it came directly, and did not")
        return stream


class DirectSockets:
    """Of one host. Create with `open`, end with `close`; belongs to one asyncio loop."""

    def __init__(self, listeners: Sequence[socket.socket], certificate: Certificate, congestion: str) -> None:
        self.port = listeners[0].getsockname()[1] if listeners else 0
        """0: this host only dials."""
        self._certificate = certificate
        self._congestion = congestion
        self._dialing = dialing_context()
        self._listeners = list(listeners)
        self._expected: dict[bytes, Expected] = {}
        self._pending: set[asyncio.Task[None]] = set()
        self._streams: set[DirectStream] = set()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    @classmethod
    def open(cls, hosts: Sequence[str], port: int = 0, congestion: str = "") -> DirectSockets:
        """Listen on the IP addresses `hosts`, on the same port of each (0: any free one), with a congestion control
        (empty: the system's). Raises `AddressError` for a port in use, and `CongestionError`.
        """
        listeners: list[socket.socket] = []
        try:
            for host in dict.fromkeys(hosts):
                listeners.append(_listen(host, port, congestion))
                port = listeners[0].getsockname()[1]
            return cls(listeners, make_certificate(), congestion)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise

    # The acceptor's half.

    @contextlib.contextmanager
    def expect(self, peer_id: str) -> Iterator[Expected]:
        """Let one socket in that shows the offer's token, as long as the context lasts."""
        offer = DirectOffer(self.port, self._certificate.pin, secrets.token_bytes(TOKEN_BYTES))
        expected = self._expected[offer.token] = Expected(offer, peer_id)
        try:
            yield expected
        finally:
            self._expected.pop(offer.token, None)
            if expected.stream is not None:
                expected.stream.abandon()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # No descriptor is left, most likely: the loop would come back at once, and for ever.
            log.warning("cannot accept tensor links for a moment: %s", error)
            self._loop.remove_reader(listener.fileno())
            self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listener)
            return
        if not self._expected or len(self._pending) >= PENDING:
            connection.close()
            return
        task = self._loop.create_task(self._admit(connection))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def _admit(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(ADMIT_S):
                stream = await self._secure(connection, self._certificate.context, server=True)
                try:
                    message = await read_message(stream)
                    expected = self._expected.pop(message.token, None) if isinstance(message, Attach) else None
                    if expected is None:
                        raise ProtocolError("a stranger on the tensor port")
                    stream.peer_id = expected.peer_id
                    expected.stream = stream
                    await write_message(stream, Attached())
                except BaseException:
                    stream.abandon()
                    raise
        except (NetworkError, OSError) as error:  # TimeoutError is one
            log.debug("a socket on the tensor port was dropped: %s", error or type(error).__name__)

    # The dialer's half.

    async def dial(self, hosts: Sequence[str], offer: DirectOffer, peer_id: str) -> DirectStream:
        """A socket to the one who made `offer`, at the first of its addresses, or its names' ones, that leads there.

        Raises `DialError`.
        """
        reasons: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DIAL_S):
                for host in hosts:
                    try:
                        async with asyncio.timeout(CONNECT_S):
                            found = await self._loop.getaddrinfo(host, offer.port, type=socket.SOCK_STREAM)
                    except (OSError, UnicodeError) as error:  # the latter from what cannot be a name
                        reasons.append(f"{host}: {str(error) or 'no answer'}")
                        continue
                    for family, _, _, _, address in found:
                        try:
                            async with asyncio.timeout(CONNECT_S):
                                return await self._dial(family, address, offer, peer_id)
                        except (NetworkError, OSError) as error:
                            reasons.append(f"{address[0]}: {str(error) or 'no answer'}")
        raise DialError(f"{peer_id}, tensor port {offer.port}: {'; '.join(reasons) or 'no direct address'}")

    async def _dial(self, family: int, address: tuple[Any, ...], offer: DirectOffer, peer_id: str) -> DirectStream:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            set_congestion(connection, self._congestion)
            await self._loop.sock_connect(connection, address)
        except BaseException:
            connection.close()
            raise
        stream = await self._secure(connection, self._dialing, server=False)
        try:
            if not secrets.compare_digest(stream.certificate_pin, offer.certificate):
                raise DialError("another certificate than was told")
            stream.peer_id = peer_id
            await write_message(stream, Attach(offer.token))
            answer = await read_message(stream)
            if not isinstance(answer, Attached):
                raise ProtocolError(f"{type(answer).__name__} in answer to a token")
        except BaseException:
            stream.abandon()
            raise
        return stream

    # Both.

    async def _secure(self, connection: socket.socket, context: ssl.SSLContext, *, server: bool) -> DirectStream:
        """TLS on a connected socket, which is closed where that fails."""
        secured: socket.socket = connection
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            secured = tls = context.wrap_socket(connection, server_side=server, do_handshake_on_connect=False)
            await handshake(tls)
        except BaseException:
            secured.close()
            raise
        if self._closed:
            tls.close()
            raise NetworkError("the host is closed")
        stream = DirectStream(tls, pin_of(tls.getpeercert(binary_form=True)), self._streams.discard)
        self._streams.add(stream)
        return stream

    async def close(self) -> None:
        """Stop listening and end every socket. Safe to repeat."""
        self._closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        for stream in tuple(self._streams):
            stream.abandon()


def _listen(host: str, port: int, congestion: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_congestion(listener, congestion)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise AddressError(f"tensor port {port} on {host}: cannot listen there: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return listener
