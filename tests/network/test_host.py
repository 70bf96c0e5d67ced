from __future__ import annotations

import asyncio
import threading
import time

import pytest

from deserve_network import carrier
from deserve_network.errors import AddressError, DialError, NetworkError, StreamClosed
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.stream import Stream

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    while True:
        size = await stream.read_exactly(4)
        await stream.write([size, await stream.read_exactly(int.from_bytes(size))])


async def roundtrip(stream: Stream, data: bytes) -> bytes:
    await stream.write([len(data).to_bytes(4), data])
    return await stream.read_exactly(int.from_bytes(await stream.read_exactly(4)))


async def test_bytes_come_back_as_they_were_sent(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.handle(ECHO, echo)
    stream = await here.open_stream(there.addresses, ECHO)
    for size in (0, 1, 70_000, 3_000_000):
        data = bytes(i % 251 for i in range(size))
        assert await roundtrip(stream, data) == data


async def test_each_end_knows_who_the_other_is(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    caller: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def note(stream: Stream) -> None:
        caller.set_result(stream.peer_id)

    there.handle(ECHO, note)
    stream = await here.open_stream(there.addresses[0], ECHO)
    await stream.write([b"hello"])
    assert (stream.peer_id, await caller) == (there.peer_id, here.peer_id)


async def test_port_zero_becomes_a_real_port(hosts: tuple[Host, Host]) -> None:
    here, _ = hosts
    (address,) = here.addresses
    assert address.endswith(f"/p2p/{here.peer_id}")
    assert "/tcp/0/" not in address


async def test_a_wildcard_is_advertised_as_addresses_that_can_be_dialled() -> None:
    async with (
        await Host.start(generate_identity(), ["/ip4/0.0.0.0/tcp/0"]) as there,
        await Host.start(generate_identity()) as here,
    ):
        there.handle(ECHO, echo)
        assert not [address for address in there.addresses if "0.0.0.0" in address]
        for address in there.addresses:
            assert await roundtrip(await here.open_stream(address, ECHO), b"x") == b"x"


async def test_a_port_in_use_is_an_error_that_names_the_address(hosts: tuple[Host, Host]) -> None:
    address = hosts[0].addresses[0].partition("/p2p/")[0]
    with pytest.raises(AddressError, match=f"{address}.*in use"):
        await Host.start(generate_identity(), [address])


@pytest.mark.parametrize("address", ["nonsense", "/ip4/300.0.0.1/tcp/1", "/ip4/127.0.0.1", "/dns4/example.org/tcp/1"])
async def test_an_address_nobody_can_listen_on_is_named(address: str) -> None:
    with pytest.raises(AddressError, match=address):
        await Host.start(generate_identity(), [address])


async def test_closing_leaves_no_thread_and_no_task() -> None:
    before = threading.active_count(), len(asyncio.all_tasks())
    here, there = [await Host.start(generate_identity(), [LOOPBACK]) for _ in range(2)]
    there.handle(ECHO, echo)
    stream = await here.open_stream(there.addresses, ECHO)
    await roundtrip(stream, b"x")
    await here.close()
    await there.close()
    await there.close()
    assert (threading.active_count(), len(asyncio.all_tasks())) == before
    with pytest.raises(StreamClosed):
        await stream.read_exactly(1)
    with pytest.raises(NetworkError, match="closed"):
        await here.open_stream(there.addresses, ECHO)


async def test_a_peer_that_is_somebody_else_is_not_accepted(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    stranger = generate_identity().peer_id
    address = there.addresses[0].replace(there.peer_id, stranger)
    with pytest.raises(DialError, match=f"{stranger}: .*somebody else is there: peer {there.peer_id}"):
        await here.open_stream(address, ECHO)


async def test_an_address_that_does_not_answer_is_named_and_the_next_one_tried(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.handle(ECHO, echo)
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{there.peer_id}"
    with pytest.raises(DialError, match=r"/ip4/127\.0\.0\.1/tcp/1: connection refused$"):
        await here.open_stream(dead, ECHO)
    assert await roundtrip(await here.open_stream([dead, *there.addresses], ECHO), b"x") == b"x"


@pytest.mark.parametrize("targets", [[], ["/ip4/127.0.0.1/tcp/1"], ["garbage"]])
async def test_a_malformed_target_is_an_address_error(hosts: tuple[Host, Host], targets: list[str]) -> None:
    with pytest.raises(AddressError):
        await hosts[0].open_stream(targets, ECHO)


async def test_a_protocol_that_the_peer_does_not_speak_is_named(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    with pytest.raises(DialError, match="/test/unknown/1"):
        await here.open_stream(there.addresses, "/test/unknown/1")


async def test_a_host_that_listens_nowhere_can_dial(hosts: tuple[Host, Host]) -> None:
    hosts[0].handle(ECHO, echo)
    async with await Host.start(generate_identity()) as outside:
        assert outside.addresses == ()
        assert await roundtrip(await outside.open_stream(hosts[0].addresses, ECHO), b"x") == b"x"


async def test_what_was_written_before_closing_arrives(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def collect(stream: Stream) -> None:
        got.set_result(await stream.read_exactly(1_000_000))
        with pytest.raises(StreamClosed, match="closed the stream"):
            await stream.read_exactly(1)
        await stream.close()

    there.handle(ECHO, collect)
    stream = await here.open_stream(there.addresses, ECHO)
    await stream.write([bytes(1_000_000)])
    await stream.close()
    assert len(await got) == 1_000_000
    with pytest.raises(StreamClosed):
        await stream.write([b"more"])


async def test_a_reset_reaches_the_other_end(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    ended = asyncio.Event()

    async def wait(stream: Stream) -> None:
        await stream.read_exactly(1)
        with pytest.raises(StreamClosed):
            await stream.read_exactly(1)
        ended.set()

    there.handle(ECHO, wait)
    stream = await here.open_stream(there.addresses, ECHO)
    await stream.write([b"x"])
    await stream.reset()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_stranger_who_opens_a_stream_and_says_nothing_is_dropped(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "FIRST_BYTES_S", 0.1)
    here, there = hosts
    there.handle(ECHO, echo)
    stream = await here.open_stream(there.addresses, ECHO)
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(stream.read_exactly(1), 5)


async def test_a_peer_holds_a_bounded_number_of_streams(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "STREAMS_PER_PEER", 3)
    here, there = hosts
    there.handle(ECHO, echo)
    kept = [await here.open_stream(there.addresses, ECHO) for _ in range(3)]
    for stream in kept:
        await roundtrip(stream, b"x")
    assert not await _answers(here, there)
    await kept[0].reset()
    async with asyncio.timeout(5):
        while not await _answers(here, there):
            pass
    assert await roundtrip(kept[1], b"x") == b"x"


async def _answers(here: Host, there: Host) -> bool:
    try:
        return await roundtrip(await here.open_stream(there.addresses, ECHO), b"x") == b"x"
    except NetworkError:
        return False


async def test_a_handler_that_fails_costs_its_stream_and_nothing_else(hosts: tuple[Host, Host]) -> None:
    here, there = hosts

    async def fail(stream: Stream) -> None:
        await stream.read_exactly(1)
        raise ZeroDivisionError

    there.handle("/test/fail/1", fail)
    there.handle(ECHO, echo)
    broken = await here.open_stream(there.addresses, "/test/fail/1")
    await broken.write([b"x"])
    with pytest.raises(StreamClosed):
        await broken.read_exactly(1)
    assert there.handler_failures == 1
    assert await roundtrip(await here.open_stream(there.addresses, ECHO), b"x") == b"x"


async def test_a_dial_into_the_void_ends_in_time(hosts: tuple[Host, Host]) -> None:
    peer = generate_identity().peer_id
    begun = time.monotonic()
    with pytest.raises(DialError, match=peer):
        await hosts[0].open_stream(f"/ip4/192.0.2.1/tcp/1/p2p/{peer}", ECHO, timeout_s=0.3)
    assert time.monotonic() - begun < 3


def test_importing_the_host_does_not_import_libp2p() -> None:
    import subprocess
    import sys

    code = "import sys, deserve_network.host; sys.exit('libp2p' in sys.modules or 'trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
