"""Real hosts on loopback, links between them with short deadlines, and a peer in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from deserve_network.control_messages import LinkShape
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link import Link
from deserve_network.link_session import LinkTimes
from deserve_network.link_state import Window
from deserve_network.links import Links

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
TIMES = LinkTimes(connect_s=10, reconnect_s=4, heartbeat_s=0.05, silence_s=2)

LinkUp = Callable[..., Awaitable[tuple[Link, Link]]]


@pytest.fixture(params=["libp2p", "tls"])
def carrier(request: pytest.FixtureRequest) -> str:
    """What links travel on: whatever holds of a link holds on either."""
    name: str = request.param
    return name


@pytest.fixture
async def hosts(carrier: str) -> AsyncIterator[tuple[Host, Host]]:
    tensor_port = 0 if carrier == "tls" else None
    async with (
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=tensor_port) as here,
        await Host.start(generate_identity(), [LOOPBACK], tensor_port=tensor_port) as there,
    ):
        yield here, there


@pytest.fixture
async def link_up(hosts: tuple[Host, Host], carrier: str) -> AsyncIterator[LinkUp]:
    """`await link_up()` gives both ends of a new link, the dialer's first."""
    here, there = hosts
    made: list[Links] = []

    async def up(
        name: str = "ring/1/0",
        shape: LinkShape | None = None,
        times: LinkTimes = TIMES,
        window: Window | None = None,
    ) -> tuple[Link, Link]:
        dialling, accepting = (Links(host, times=times, window=window, unknown_name_s=0.2) for host in hosts)
        made.extend((dialling, accepting))
        shape = shape or LinkShape()
        near, far = await asyncio.gather(
            dialling.dial(there.addresses, name, shape), accepting.accept(name, here.peer_id, shape)
        )
        assert near.carrier == far.carrier == carrier
        return near, far

    yield up
    await asyncio.gather(*(links.close() for links in made))


@pytest.fixture
async def echo_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process that runs `echo_peer.py`, and its address. It may be stopped or killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("echo_peer.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    yield process, (await process.stdout.readline()).decode().strip()
    if process.returncode is None:
        process.kill()
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]
