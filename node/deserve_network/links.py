"""Pairs the two ends of every link of one host: who dials, who accepts, and the handshake between them.

The dialer opens a stream and sends `Open` with the link's name, its session and what it has received; the acceptor,
who expects that name from that peer and nobody else, answers `Opened` with the same of its own. A peer that restarted
has another session and is refused: a link is never resumed with somebody who has forgotten it. Then the link moves to a
direct socket where both ends have one (see `direct_handshake`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from deserve_network.byte_stream import ByteStream
from deserve_network.control_messages import LinkShape
from deserve_network.direct_handshake import follow_offer, until_carried
from deserve_network.errors import CongestionError, LinkLost, LinkRefused, NetworkError, ProtocolError
from deserve_network.host import Host
from deserve_network.link import Link
from deserve_network.link_messages import MAX_NAME, Open, Opened, Refused, read_message, write_message
from deserve_network.link_session import LinkTimes
from deserve_network.link_state import Window
from deserve_network.ring_messages import RING, RING_PROTOCOL
from deserve_network.schema import Table
from deserve_network.stream import Stream

__all__ = ["Links"]

HANDSHAKE_S = 15.0
UNKNOWN_NAME_S = 10.0
"""How long an `Open` may wait for the local `accept` of its name; neighbours are told of a ring at different times."""
WAITING_PER_PEER = 16
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0

NO_SHAPE = LinkShape()


class Links:
    """Every link of `host`. The defaults speak the ring protocol."""

    def __init__(
        self,
        host: Host,
        *,
        table: Table = RING,
        protocol: str = RING_PROTOCOL,
        window: Window | None = None,
        times: LinkTimes | None = None,
        handshake_s: float = HANDSHAKE_S,
        unknown_name_s: float = UNKNOWN_NAME_S,
    ) -> None:
        self._host = host
        self._table = table
        self._protocol = protocol
        self._window = window or Window()
        self._times = times or LinkTimes()
        self._handshake_s = handshake_s
        self._unknown_name_s = unknown_name_s
        self._links: set[Link] = set()
        self._accepting: dict[str, _Expected] = {}
        self._registered = asyncio.Event()
        self._waiting: Counter[str] = Counter()
        host.handle(protocol, self._incoming)

    async def dial(self, addresses: Sequence[str], name: str, shape: LinkShape = NO_SHAPE) -> Link:
        """The link `name` to the peer at `addresses` (multiaddresses with /p2p/), once it stands.

        `shape` emulates the direction from here to there. Raises `AddressError`, `LinkRefused` where the peer does not
        want this link, and `LinkLost` where it does not answer within `connect_s`.
        """
        peer_id = _peer_of(addresses)

        async def connect(link: Link, deadline: float) -> tuple[ByteStream, Opened]:
            return await self._dial_until(link, addresses, shape, deadline)

        return await self._stand(self._link(name, peer_id, shape, dialer=True, connect=connect))

    async def accept(self, name: str, peer_id: str, shape: LinkShape = NO_SHAPE) -> Link:
        """The link `name` that `peer_id` dials, once it stands. Raises `LinkLost` after `connect_s` without it."""
        if name in self._accepting:
            raise LinkRefused(f"link {name} is accepted already")
        expected = self._accepting[name] = _Expected(peer_id)

        async def connect(link: Link, deadline: float) -> tuple[ByteStream, Open]:
            return await self._accept_until(link, expected, shape, deadline)

        try:
            link = expected.link = self._link(name, peer_id, shape, dialer=False, connect=connect)
        except BaseException:
            del self._accepting[name]
            raise
        link.on_end(lambda: self._accepting.pop(name))
        self._registered.set()
        return await self._stand(link)

    async def close(self) -> None:
        """Close every link."""
        await asyncio.gather(*(link.close() for link in tuple(self._links)))

    def _link(self, name: str, peer_id: str, shape: LinkShape, **how: Any) -> Link:
        if len(name) > MAX_NAME:
            raise ValueError(f"a link's name has at most {MAX_NAME} characters: {name}")
        link = Link(name, peer_id, table=self._table, shape=shape, window=self._window, times=self._times, **how)
        self._links.add(link)
        link.on_end(lambda: self._links.discard(link))
        return link

    async def _stand(self, link: Link) -> Link:
        try:
            await link.established()
        except BaseException:
            await link.close()
            raise
        return link

    # The dialer's half.

    async def _dial_until(
        self, link: Link, addresses: Sequence[str], shape: LinkShape, deadline: float
    ) -> tuple[ByteStream, Opened]:
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return await self._open(link, addresses, shape, deadline - loop.time())
            except _NotYet as error:
                reason: NetworkError = LinkRefused(str(error))
            except LinkRefused:
                raise
            except NetworkError as error:
                reason = error
            pause_s = backoff_s * random.uniform(0.5, 1.5)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            if loop.time() + pause_s >= deadline:
                if isinstance(reason, LinkRefused):
                    raise reason
                raise LinkLost(f"no stream in time: {reason}") from reason
            await asyncio.sleep(pause_s)

    async def _open(
        self, link: Link, addresses: Sequence[str], shape: LinkShape, remaining_s: float
    ) -> tuple[ByteStream, Opened]:
        timeout_s = min(self._handshake_s, remaining_s)
        stream = await self._host.open_stream(addresses, self._protocol, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(shape.latency_ms / 1e3)
                state = link.state
                window = state.window
                await write_message(
                    stream,
                    Open(
                        link.name,
                        link.session_id,
                        link.peer_session_id,
                        state.received,
                        state.consumed,
                        window.nbytes,
                        window.frames,
                        direct=self._host.direct is not None and link.may_be_direct,
                    ),
                )
                answer = await read_message(stream)
                if isinstance(answer, Opened):
                    return await _using(shape, await self._opened(link, addresses, stream, answer)), answer
        except TimeoutError:
            await stream.reset()
            raise LinkLost("no answer to the handshake") from None
        except BaseException:
            await stream.reset()
            raise
        if isinstance(answer, Refused):
            await stream.close()
            raise (_NotYet if answer.retry else LinkRefused)(f"{link.peer_id}: {answer.reason}")
        await stream.reset()
        raise ProtocolError(f"{type(answer).__name__} in answer to Open")

    async def _opened(self, link: Link, addresses: Sequence[str], stream: Stream, answer: Opened) -> ByteStream:
        """What the link lives on from here."""
        if link.peer_session_id not in (b"", answer.session):
            raise LinkRefused(f"{link.peer_id} has forgotten link {link.name}")
        link.peer_session_id = answer.session
        if answer.offer is None or self._host.direct is None:
            return stream
        chosen = await follow_offer(stream, answer.offer, self._host.direct, addresses)
        # Whoever cannot be reached directly once is not tried again each time that the stream breaks.
        link.may_be_direct = chosen is not stream
        return chosen

    # The acceptor's half.

    async def _incoming(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._handshake_s):
                request = await read_message(stream)
        except TimeoutError:
            raise ProtocolError(f"no handshake within {self._handshake_s:g} s") from None
        if not isinstance(request, Open):
            raise ProtocolError(f"{type(request).__name__} instead of Open")
        expected = await self._expected(request.name, stream.peer_id)
        if expected is None:
            await _refuse(stream, f"nobody here expects link {request.name}", retry=True)
        elif expected.peer_id != stream.peer_id:
            await _refuse(stream, f"link {request.name} is somebody else's", retry=False)
        else:
            await expected.offer(stream, request)

    async def _expected(self, name: str, peer_id: str) -> _Expected | None:
        if name in self._accepting or self._waiting[peer_id] >= WAITING_PER_PEER:
            return self._accepting.get(name)
        self._waiting[peer_id] += 1
        try:
            async with asyncio.timeout(self._unknown_name_s):
                while name not in self._accepting:
                    self._registered.clear()
                    await self._registered.wait()
        except TimeoutError:
            return None
        finally:
            self._waiting[peer_id] -= 1
        return self._accepting[name]

    async def _accept_until(
        self, link: Link, expected: _Expected, shape: LinkShape, deadline: float
    ) -> tuple[ByteStream, Open]:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    stream, request = await expected.streams.get()
            except TimeoutError:
                raise LinkLost("the dialer did not come in time") from None
            try:
                if link.peer_session_id not in (b"", request.session):
                    await _refuse(stream, "this end knows another session of you", retry=False)
                    raise LinkRefused(f"{link.peer_id} has forgotten link {link.name}")
                if request.peer_session not in (b"", link.session_id):
                    await _refuse(stream, f"this end does not know link {link.name} any more", retry=False)
                    continue
                link.peer_session_id = request.session
                await asyncio.sleep(shape.latency_ms / 1e3)
                return await _using(shape, await self._answer(link, stream, request)), request
            except LinkRefused:
                raise
            except NetworkError:
                # It broke, or the dialer was late or wrong on one that still stands; either way they come again.
                await stream.reset()
            except BaseException:
                await stream.reset()
                raise

    async def _answer(self, link: Link, stream: Stream, request: Open) -> ByteStream:
        """Say `Opened`, and find out what the link lives on from here."""
        state, direct = link.state, self._host.direct
        window = state.window
        opened = Opened(link.session_id, state.received, state.consumed, window.nbytes, window.frames)
        if direct is None or not direct.port or not request.direct:
            await write_message(stream, opened)
            return stream
        with direct.expect(stream.peer_id) as expected:
            await write_message(stream, dataclasses.replace(opened, offer=expected.offer))
            return await until_carried(stream, expected, self._handshake_s)


class _NotYet(LinkRefused):
    """The peer does not know the name yet."""


class _Expected:
    """A name that is accepted here: from whom, and the streams that came for it (the newest counts)."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.link: Link | None = None
        self.streams: asyncio.Queue[tuple[Stream, Open]] = asyncio.Queue()

    async def offer(self, stream: Stream, request: Open) -> None:
        while not self.streams.empty():
            older, _ = self.streams.get_nowait()
            await older.reset()
        self.streams.put_nowait((stream, request))
        if self.link is not None:
            # The dialer would not be here if it had not given up the stream before, whatever this end thinks of it.
            await self.link.drop_stream()


async def _using(shape: LinkShape, stream: ByteStream) -> ByteStream:
    """The stream, with TCP as `shape` has it. Ends it and raises `LinkRefused` where this end has no such TCP."""
    try:
        stream.use_congestion(shape.congestion)
    except CongestionError as error:
        await stream.reset()
        raise LinkRefused(f"congestion: {error}") from error
    return stream


async def _refuse(stream: Stream, reason: str, *, retry: bool) -> None:
    with contextlib.suppress(NetworkError):
        await write_message(stream, Refused(reason, retry))
    await stream.close()


def _peer_of(addresses: Sequence[str]) -> str:
    if not addresses:
        raise LinkRefused("no address to dial")
    return addresses[0].rpartition("/p2p/")[2]
