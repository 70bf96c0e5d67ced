"""Who gets a socket on the tensor port, who does not, and what a link does where there is none to be had."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from deserve_network import direct_sockets
from deserve_network.certificate import dialing_context
from deserve_network.congestion import check_congestion
from deserve_network.direct_handshake import direct_hosts
from deserve_network.direct_sockets import DirectSockets
from deserve_network.direct_stream import DirectStream
from deserve_network.errors import AddressError, CongestionError, DialError
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link import Link
from deserve_network.link_messages import Attach, DirectOffer, write_message
from deserve_network.links import Links
from deserve_network.ring_messages import Tune

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
