"""libp2p itself: the only module that touches its API. Everything here but the public methods runs in trio.

py-libp2p 0.8 has edges that are smoothed here: it binds with SO_REUSEPORT, so that a port in use goes unnoticed; it
tries only one address of a peer, four times; it caches failed peers; it dials every peer it has heard of on its own; a
reset may wait behind a dead connection.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from deserve_network.congestion import check_congestion, set_congestion
from deserve_network.dial_failure import dial_failure
from deserve_network.errors import AddressError, DialError, NetworkError
from deserve_network.identity import Identity
from deserve_network.stream import Pump, Stream
from deserve_network.trio_thread import TrioThread

__all__ = ["Carrier"]

STREAMS_PER_PEER = 64
"""Streams a peer may hold open towards us."""
FIRST_BYTES_S = 10.0
STREAM_TIMEOUT_S = 4.0
"""Opening a stream on a standing connection; a longer silence means that the connection is dead."""
SEVER_S = 1.0


class Carrier:
    def __init__(self, thread: TrioThread, host: Any, transport: _CountedTcp) -> None:
        self._thread = thread
        self._host = host
        self._transport = transport
        self._swarm = host.get_network()
        self._stop = trio.Event()
        self._streams: collections.Counter[str] = collections.Counter()
        self._dialling: dict[str, trio.Lock] = {}
        self.peer_id = str(host.get_id())
        self.addresses: tuple[str, ...] = ()

    @classmethod
    async def start(cls, identity: Identity, listen: Sequence[str], *, congestion: str = "") -> Carrier:
        check_congestion(congestion)
        wanted = [_listen_address(text) for text in listen]
        _silence_libp2p()
        thread = await TrioThread.start()
        try:
            return await thread.call(cls._begin, thread, identity, wanted, congestion)
        except BaseException:
            await thread.close()
            raise

    @classmethod
    async def _begin(
        cls, thread: TrioThread, identity: Identity, listen: Sequence[Multiaddr], congestion: str
    ) -> Carrier:
        key = Ed25519PrivateKey.from_bytes(identity.secret)
        config = ConnectionConfig(min_connections=0, low_watermark=0)
        transport = _CountedTcp(congestion)
        host = new_host(
            key_pair=KeyPair(key, key.get_public_key()),
            muxer_preference="YAMUX",
            connection_config=config,
            transports=[transport],
        )
        swarm = host.get_network()
        swarm.retry_config = RetryConfig(max_retries=0)
        swarm.auto_connector.maybe_connect = _dial_nobody
        self = cls(thread, host, transport)
        started: trio.MemorySendChannel[Exception | None]
        started, outcome = trio.open_memory_channel(1)
        thread.spawn(self._run, listen, started)
        if (error := await outcome.receive()) is not None:
            raise error
        return self

    async def _run(self, listen: Sequence[Multiaddr], started: trio.MemorySendChannel[Exception | None]) -> None:
        try:
            for address in listen:
                _probe(address)
        except AddressError as error:
            started.send_nowait(error)
            return
        async with self._host.run(listen_addrs=listen):
            missing = [str(address) for address in listen if str(address) not in self._swarm.listeners]
            if missing:
                started.send_nowait(AddressError(f"{missing[0]}: cannot listen there"))
                return
            for listener in self._swarm.listeners.values():
                for accepting in listener.listeners:
                    set_congestion(accepting.socket, self._transport.congestion)
            suffix = f"/p2p/{self.peer_id}"
            found = (str(address) for listener in self._swarm.listeners.values() for address in listener.get_addrs())
            self.addresses = tuple(dict.fromkeys(a + suffix for text in found for a in _reachable(text)))
            started.send_nowait(None)
            await self._stop.wait()

    async def close(self) -> None:
        with contextlib.suppress(NetworkError):
            await self._thread.call(self._end)
        await self._thread.close()

    async def _end(self) -> None:
        with trio.move_on_after(SEVER_S):
            # Listeners first, or a peer that notices the loss is back before we are gone.
            for listener in list(self._swarm.listeners.values()):
                await listener.close()
            async with trio.open_nursery() as nursery:
                for peer_id in list(self._swarm.connections):
                    nursery.start_soon(self._sever, peer_id)
        await self._transport.close_all()
        self._stop.set()

    # Inbound.

    def handle(self, protocol: str, accept: Callable[[Stream], None]) -> None:
        async def serve(net_stream: Any) -> None:
            peer = str(net_stream.muxed_conn.peer_id)
            if self._streams[peer] >= STREAMS_PER_PEER:
                await net_stream.reset()
                return
            self._streams[peer] += 1
            pump = Pump(net_stream, self._thread, first_bytes_s=FIRST_BYTES_S)
            try:
                self._thread.notify(accept, Stream(pump, peer, protocol))
                await pump.run()
            finally:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]

        self._thread.post(self._host.set_stream_handler, protocol, serve)

    # Outbound.

    async def open_stream(self, targets: Sequence[str], protocol: str, timeout_s: float) -> Stream:
        peer, addresses = _parse_targets(targets)
        if peer == self.peer_id:
            raise DialError(f"{peer}: this host itself")
        pump = await self._thread.call(self._open, peer, addresses, protocol, timeout_s)
        return Stream(pump, peer, protocol)

    async def _open(self, peer: str, addresses: Sequence[Multiaddr], protocol: str, timeout_s: float) -> Pump:
        step = "connecting"
        peer_id = ID.from_string(peer)
        try:
            with trio.fail_after(timeout_s):
                for _ in range(2):
                    fresh = await self._connect(peer_id, addresses)
                    step = f"opening {protocol}"
                    net_stream = await self._new_stream(peer_id, protocol, timeout_s if fresh else STREAM_TIMEOUT_S)
                    if net_stream is not None:
                        pump = Pump(net_stream, self._thread, first_bytes_s=None)
                        self._thread.spawn(pump.run)
                        return pump
                    # The connection stands but does not answer: it died silently. Once more from the start.
                    await self._sever(peer_id)
                    if fresh:
                        break
        except trio.TooSlowError:
            raise DialError(f"{peer}: no answer within {timeout_s:g} s while {step}") from None
        raise DialError(f"{peer}: no answer while {step}")

    async def _connect(self, peer_id: ID, addresses: Sequence[Multiaddr]) -> bool:
        """True where the connection is new."""
        lock = self._dialling.setdefault(str(peer_id), trio.Lock())
        async with lock:
            if any(not connection.is_closed for connection in self._swarm.get_connections(peer_id)):
                return False
            reasons = []
            for address in addresses:
                try:
                    connection = await self._swarm.dial_addr(address, peer_id)
                    await connection.event_started.wait()
                    return True
                except Exception as error:  # noqa: BLE001 - libp2p raises a dozen unrelated types here
                    reasons.append(f"{address}: {dial_failure(error)}")
            raise DialError(f"{peer_id}: {'; '.join(reasons)}")

    async def _new_stream(self, peer_id: ID, protocol: str, timeout_s: float) -> Any:
        """None where nothing answers in time.

        The attempt runs in a task of its own: libp2p cleans up behind a shield that a dead connection never opens.
        """
        done = trio.Event()
        box: list[Any] = []

        async def attempt() -> None:
            try:
                box.append(await self._host.new_stream(peer_id, [protocol]))
            except Exception as error:  # noqa: BLE001 - as above; handed to the caller
                box.append(error)
            if done.is_set() and not isinstance(box[0], Exception):
                await box[0].reset()
            done.set()

        self._thread.spawn(attempt)
        try:
            with trio.move_on_after(timeout_s):
                await done.wait()
        finally:
            done.set()
        if not box:
            return None
        if isinstance(box[0], Exception):
            raise DialError(f"{peer_id}: cannot open {protocol}: {dial_failure(box[0])}") from box[0]
        return box[0]

    async def disconnect(self, peer_id: str) -> None:
        await self._thread.call(self._sever, ID.from_string(peer_id))

    async def _sever(self, peer_id: ID) -> None:
        for connection in list(self._swarm.get_connections(peer_id)):
            # The socket first: a polite goodbye would wait behind whatever the dead peer does not read.
            raw = connection.muxed_conn
            while (inner := _inner(raw)) is not None:
                raw = inner
            if isinstance(raw, trio.SocketStream):
                await trio.aclose_forcefully(raw)
            with trio.move_on_after(SEVER_S):
                await connection.close()


class _CountedTcp(TCP):  # type: ignore[misc]
    """TCP that remembers what it dialled: libp2p drops some sockets of failed handshakes without closing them."""

    def __init__(self, congestion: str) -> None:
        super().__init__()
        self.congestion = congestion
        self._dialled: set[trio.SocketStream] = set()

    async def dial(self, maddr: Multiaddr) -> Any:
        connection = await super().dial(maddr)
        set_congestion(connection.stream.stream.socket, self.congestion)
        self._dialled = {stream for stream in self._dialled if stream.socket.fileno() != -1}
        self._dialled.add(connection.stream.stream)
        return connection

    async def close_all(self) -> None:
        for stream in self._dialled:
            await trio.aclose_forcefully(stream)


def _silence_libp2p() -> None:
    """It logs every refused dial as an error on stderr; ours come back as exceptions."""
    if "LIBP2P_DEBUG" not in os.environ:
        for name in ("libp2p", "libp2p.network.auto_connector"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


async def _dial_nobody() -> None:
    """In place of libp2p's own dialling to known peers: who is dialled is our owner's business."""


def _inner(layer: Any) -> Any:
    for name in ("secured_conn", "conn", "stream", "read_writer", "read_write_closer"):
        if (inner := getattr(layer, name, None)) is not None:
            return inner
    return None


def _listen_address(text: str) -> Multiaddr:
    address = _parse(text)
    names = [protocol.name for protocol in address.protocols()]
    if names not in (["ip4", "tcp"], ["ip6", "tcp"]):
        raise AddressError(f"{text}: expected /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT")
    return address


def _parse(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except Exception as error:
        raise AddressError(f"{text!r} is not a multiaddress: {error}") from error


def _parse_targets(targets: Sequence[str]) -> tuple[str, list[Multiaddr]]:
    if not targets:
        raise AddressError("no address given")
    peer = None
    addresses = []
    for text in targets:
        address = _parse(text)
        name = address.get_peer_id()
        if name is None:
            raise AddressError(f"{text}: lacks /p2p/PEER_ID")
        if peer not in (None, name):
            raise AddressError(f"{text}: another peer than {peer}")
        peer = name
        addresses.append(address.decapsulate(Multiaddr(f"/p2p/{name}")))
    return cast(str, peer), addresses


def _probe(address: Multiaddr) -> None:
    """Raise `AddressError` where nobody could listen at `address`; libp2p's SO_REUSEPORT would share a busy port."""
    family, name = (socket.AF_INET, "ip4") if "ip4" in str(address) else (socket.AF_INET6, "ip6")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.value_for_protocol(name), int(cast(str, address.value_for_protocol("tcp")))))
        except OSError as error:
            raise AddressError(f"{address}: cannot listen there: {error.strerror}") from error


def _reachable(text: str) -> list[str]:
    """A wildcard address as loopback plus the address of the default route; others as they are."""
    if "/ip4/0.0.0.0/" not in text:
        return [text.replace("/ip6/::/", "/ip6/::1/")]
    own = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks the routing table only
            own.insert(0, probe.getsockname()[0])
        except OSError:
            pass
    return [text.replace("0.0.0.0", address) for address in own]
