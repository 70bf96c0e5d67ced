"""Who gets a socket on the tensor port, who does not, and what a link does where there is none to be had."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest

from deserve_network import direct_sockets
from deserve_network.byte_stream import Buffer
from deserve_network.certificate import dialing_context
from deserve_network.congestion import check_congestion
from deserve_network.direct_handshake import direct_hosts, follow_offer, until_carried
from deserve_network.direct_sockets import DirectSockets
from deserve_network.direct_stream import DirectStream
from deserve_network.errors import AddressError, CongestionError, DialError, SchemaError, StreamClosed
from deserve_network.framing import Kind, Preamble
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link import Link
from deserve_network.link_messages import (
    LINK,
    Attach,
    Attached,
    Carried,
    DirectOffer,
    Open,
    Opened,
    read_message,
    write_message,
)
from deserve_network.links import Links
from deserve_network.ring_messages import RING_PROTOCOL, Tune

HERE = ["127.0.0.1"]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
async def sockets() -> AsyncIterator[DirectSockets]:
    opened = DirectSockets.open(HERE)
    yield opened
    await opened.close()


async def is_closed(connection: socket.socket, within_s: float = 5.0) -> bool:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(loop.sock_recv(connection, 1), within_s) == b""
    return True


async def connect(sockets: DirectSockets) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", sockets.port))
    return connection


async def test_the_expected_one_gets_a_stream_to_the_peer_that_is_meant(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected:
        near = await sockets.dial(HERE, expected.offer, "acceptor")
        far = expected.take()
    assert (near.peer_id, far.peer_id) == ("acceptor", "peer")
    await near.write([b"hello"])
    assert await far.read_exactly(5) == b"hello"


async def test_a_token_is_good_once(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected, sockets.expect("another"):
        await sockets.dial(HERE, expected.offer, "acceptor")
        with pytest.raises(DialError):
            await sockets.dial(HERE, expected.offer, "acceptor")


async def test_a_wrong_token_is_dropped(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected:
        with pytest.raises(DialError):
            await sockets.dial(HERE, dataclasses.replace(expected.offer, token=bytes(32)), "acceptor")
        assert expected.stream is None


async def test_an_acceptor_with_another_certificate_never_sees_the_token(
    sockets: DirectSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Attach] = []

    async def write(stream: DirectStream, message: Attach) -> None:
        shown.append(message)
        await write_message(stream, message)

    monkeypatch.setattr(direct_sockets, "write_message", write)
    with sockets.expect("peer") as expected, pytest.raises(DialError, match="another certificate"):
        await sockets.dial(HERE, dataclasses.replace(expected.offer, certificate=bytes(32)), "acceptor")
    assert not shown


async def test_nobody_is_let_in_while_nobody_is_expected(sockets: DirectSockets) -> None:
    with await connect(sockets) as connection:
        assert await is_closed(connection)
    with sockets.expect("peer") as expected:
        pass
    with pytest.raises(DialError):
        await sockets.dial(HERE, expected.offer, "acceptor")


async def test_a_stranger_who_says_nothing_or_nonsense_is_dropped(
    sockets: DirectSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_sockets, "ADMIT_S", 0.2)
    with sockets.expect("peer"):
        with await connect(sockets) as silent:
            assert await is_closed(silent)
        with await connect(sockets) as loud:
            await asyncio.get_running_loop().sock_sendall(loud, b"GET / HTTP/1.1\r\n\r\n")
            alert = b""
            with contextlib.suppress(ConnectionError):
                while piece := await asyncio.get_running_loop().sock_recv(loud, 100):
                    alert += piece
            assert len(alert) < 10
        reader, writer = await asyncio.open_connection("127.0.0.1", sockets.port, ssl=dialing_context())
        assert await reader.read() == b""  # TLS and then nothing
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
    assert not sockets._streams


async def test_strangers_hold_a_bounded_number_of_sockets(
    sockets: DirectSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_sockets, "PENDING", 3)
    with sockets.expect("peer"), contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(await connect(sockets))
        assert await is_closed(stack.enter_context(await connect(sockets)))
        assert len(sockets._pending) == 3
    await sockets.close()
    assert not sockets._pending


async def test_a_dead_address_does_not_hide_the_one_that_works(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected:
        await sockets.dial(["127.0.0.2", *HERE], expected.offer, "acceptor")
        assert expected.stream is not None


async def test_every_address_of_a_name_is_tried_until_one_leads_there(
    sockets: DirectSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(host: str, port: int, *, type: int) -> list[object]:
        return [(socket.AF_INET, type, 0, "", (address, port)) for address in ("127.0.0.2", *HERE)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    with sockets.expect("peer") as expected:
        await sockets.dial(["node.example"], expected.offer, "acceptor")
        assert expected.stream is not None


async def test_a_name_that_is_none_does_not_hide_the_address_that_works(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected:
        await sockets.dial(["a" * 64 + ".example", *HERE], expected.offer, "acceptor")
    with pytest.raises(DialError, match=r"a\.\.b: "):
        await sockets.dial(["a..b"], expected.offer, "acceptor")


@pytest.mark.parametrize("port", [0, -1, 65536, 70000])
def test_an_offer_of_what_is_no_port_is_refused(port: int) -> None:
    answer = LINK.encode(Opened(b"", 0, 0, 1, 1, DirectOffer(port, bytes(32), bytes(32))))
    with pytest.raises(SchemaError, match=rf"Opened\.offer\.port: {port} "):
        LINK.decode(answer)


class NeverClosed:
    """The libp2p stream of a handshake: the dialer chose the direct socket, and `close` takes for ever."""

    peer_id, carrier, bytes_received = "peer", "", 0

    def __init__(self) -> None:
        choice = LINK.encode(Carried(direct=True))
        self._reads = [Preamble(Kind.OPEN, len(choice)).encode(), choice]
        self.closing = asyncio.Event()

    async def read_exactly(self, count: int) -> bytearray:
        return bytearray(self._reads.pop(0))

    async def write(self, buffers: Sequence[Buffer]) -> None: ...

    async def close(self) -> None:
        self.closing.set()
        await asyncio.get_running_loop().create_future()

    async def reset(self) -> None: ...


@pytest.mark.parametrize("end", ["dialer", "acceptor"])
async def test_a_handshake_cancelled_at_its_very_end_leaves_no_direct_socket(sockets: DirectSockets, end: str) -> None:
    stream = NeverClosed()
    with sockets.expect("peer") as expected:
        if end == "dialer":
            addresses = ["/ip4/127.0.0.1/tcp/1/p2p/peer"]
            half = asyncio.create_task(follow_offer(stream, expected.offer, sockets, addresses))
        else:
            near = await sockets.dial(HERE, expected.offer, "acceptor")
            half = asyncio.create_task(until_carried(stream, expected, 5.0))
        await asyncio.wait_for(stream.closing.wait(), 5)
        half.cancel()
        with pytest.raises(asyncio.CancelledError):
            await half
        other = expected.take() if end == "dialer" else near
        with pytest.raises(StreamClosed):
            await asyncio.wait_for(other.read_exactly(1), 5)


async def test_a_port_in_use_is_named() -> None:
    first = DirectSockets.open(HERE)
    with pytest.raises(AddressError, match=f"tensor port {first.port} on 127.0.0.1"):
        DirectSockets.open(HERE, first.port)
    await first.close()


async def test_closing_ends_open_sockets_and_lets_nobody_in(sockets: DirectSockets) -> None:
    with sockets.expect("peer") as expected:
        near = await sockets.dial(HERE, expected.offer, "acceptor")
        await sockets.close()
        with pytest.raises(DialError):
            await sockets.dial(HERE, expected.offer, "acceptor")
    with pytest.raises(Exception, match="reset"):
        await near.read_exactly(1)


@pytest.mark.parametrize("name", ["reno", "cubic"])
async def test_both_ends_use_the_congestion_control_that_was_asked_for(name: str) -> None:
    try:
        check_congestion(name)
    except CongestionError:
        pytest.skip(f"no {name} in this kernel")
    sockets = DirectSockets.open(HERE, congestion=name)
    with sockets.expect("peer") as expected:
        for stream in (await sockets.dial(HERE, expected.offer, "acceptor"), expected.take()):
            chosen = stream._tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert chosen.rstrip(b"\0") == name.encode()
    await sockets.close()


async def test_a_congestion_control_that_is_not_there_is_named_with_those_that_are() -> None:
    check_congestion("")
    with pytest.raises(CongestionError, match=r"'fast' cannot be used here .*; the kernel has .*(cubic|reno)"):
        check_congestion("fast")
    with pytest.raises(CongestionError, match="'fast'"):
        await Host.start(generate_identity(), [LOOPBACK], congestion="fast")


def test_direct_addresses_are_those_without_a_relay() -> None:
    assert direct_hosts(
        [
            "/ip4/192.0.2.1/tcp/4001/p2p/Q",
            "/ip4/192.0.2.1/tcp/4002/p2p/Q",
            "/ip4/192.0.2.9/tcp/1/p2p/R/p2p-circuit/p2p/Q",
            "/dns4/node.example/tcp/1/p2p/Q",
            "/ip6/::1/tcp/4001/p2p/Q",
            "/unix/tmp",
        ]
    ) == ["192.0.2.1", "node.example", "::1"]


@contextlib.asynccontextmanager
async def linked(here: int | None, there: int | None) -> AsyncIterator[tuple[Link, Link]]:
    async with (
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=here) as dialer,
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=there) as acceptor,
    ):
        dialling, accepting = Links(dialer), Links(acceptor)
        yield await asyncio.gather(dialling.dial(acceptor.addresses, "a"), accepting.accept("a", dialer.peer_id))
        await asyncio.gather(dialling.close(), accepting.close())
        assert acceptor.direct is None or not acceptor.direct._expected


@pytest.mark.parametrize("choice", [None, Attached()])
async def test_a_dialer_who_does_not_choose_or_says_something_else_loses_the_stream(choice: Attached | None) -> None:
    async with (
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=0) as dialer,
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=0) as acceptor,
    ):
        accepting = Links(acceptor, handshake_s=0.3)
        accept = asyncio.create_task(accepting.accept("a", dialer.peer_id))
        stream = await dialer.open_stream(acceptor.addresses, RING_PROTOCOL)
        await write_message(stream, Open("a", bytes(16), b"", 0, 0, 1, 1, direct=True))
        answer = await read_message(stream)
        assert isinstance(answer, Opened)
        assert answer.offer is not None
        if choice is not None:
            await write_message(stream, choice)
        with pytest.raises(StreamClosed):
            await asyncio.wait_for(stream.read_exactly(1), 5)
        assert not accept.done()  # whoever comes next may still be right
        accept.cancel()
        await asyncio.gather(accept, accepting.close(), return_exceptions=True)


@pytest.mark.parametrize("ends", [(0, None), (None, 0)])
async def test_a_link_with_an_end_that_has_no_direct_sockets_stays_on_libp2p(
    ends: tuple[int | None, int | None],
) -> None:
    async with linked(*ends) as (near, far):
        assert near.carrier == far.carrier == "libp2p"


async def test_a_link_whose_direct_socket_cannot_be_had_stays_on_libp2p_and_asks_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[DirectOffer] = []

    async def dial(self: DirectSockets, hosts: object, offer: DirectOffer, peer_id: str) -> DirectStream:
        tried.append(offer)
        raise DialError("filtered")

    monkeypatch.setattr(DirectSockets, "dial", dial)
    async with linked(0, 0) as (near, far):
        assert near.carrier == far.carrier == "libp2p"
        await near.drop_stream()
        await near.send(Tune("ring", 1, 1, (), 1, 1))
        await far.receive()
        assert (near.streams, near.carrier) == (2, "libp2p")
    assert len(tried) == 1
    assert sum("filtered" in record.message for record in caplog.records) == 1
