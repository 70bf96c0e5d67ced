"""A peer that answers every control message with itself, and every frame of the link "echo" likewise."""

from __future__ import annotations

import asyncio
import sys

from deserve_network.channel import Channel
from deserve_network.control_messages import CONTROL, CONTROL_PROTOCOL
from deserve_network.errors import NetworkError
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.links import Links
from deserve_network.stream import Stream


async def echo_channel(stream: Stream) -> None:
    channel = Channel(stream, CONTROL)
    try:
        while True:
            await channel.send(await channel.receive())
    finally:
        await channel.close()


async def echo_link(stream: Stream) -> None:
    """Opened by a peer that wants a link: its id is all that is needed from the stream."""
    link = await links.accept("echo", stream.peer_id)
    try:
        while True:
            frame = await link.receive()
            await link.send(frame.message, [frame.payload])
    except NetworkError:
        await link.close()


async def main() -> None:
    global links
    host = await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"], tensor_port=0)
    links = Links(host)
    host.handle(CONTROL_PROTOCOL, echo_channel)
    host.handle("/test/want-link/1", echo_link)
    print(host.addresses[0], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await host.close()


links: Links
asyncio.run(main())
