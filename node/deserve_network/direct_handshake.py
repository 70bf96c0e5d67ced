"""How the two ends of a link, who have just met on a libp2p stream, agree on what it lives on.

The acceptor offers a direct socket (see `direct_sockets`), the dialer tries it and decides: on the socket, or on the
libp2p stream that they have anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from deserve_network.byte_stream import ByteStream
from deserve_network.direct_sockets import DirectSockets, Expected
from deserve_network.errors import DialError, ProtocolError, StreamClosed
from deserve_network.link_messages import Carried, DirectOffer, read_message, write_message

__all__ = ["direct_hosts", "follow_offer", "until_carried"]

log = logging.getLogger(__name__)

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


async def follow_offer(
    stream: ByteStream, offer: DirectOffer, sockets: DirectSockets, addresses: Sequence[str]
) -> ByteStream:
    """The dialer's half: the direct socket, or `stream` where none can be had. Raises `StreamClosed`.

    Whatever it raises, and where it is cancelled, no direct socket is left.
    """
    try:
        direct = await sockets.dial(direct_hosts(addresses), offer, stream.peer_id)
    except DialError as error:
        log.warning("a tensor link stays on libp2p, which costs more processor time: %s", error)
        await write_message(stream, Carried(direct=False))
        return stream
    try:
        await write_message(stream, Carried(direct=True))
        await stream.close()
    except BaseException:
        direct.abandon()
        raise
    return direct


async def until_carried(stream: ByteStream, expected: Expected, timeout_s: float) -> ByteStream:
    """The acceptor's half: what the dialer chose. Raises `StreamClosed` and `ProtocolError`.

    Whatever it raises, and where it is cancelled, a direct socket that had come is ended, here or with `expected`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            choice = await read_message(stream)
    except TimeoutError:
        raise StreamClosed("the dialer did not choose in time") from None
    if not isinstance(choice, Carried):
        raise ProtocolError(f"{type(choice).__name__} instead of Carried")
    if not choice.direct:
        return stream
    direct = expected.take()
    try:
        await stream.close()
    except BaseException:
        direct.abandon()
        raise
    return direct


def direct_hosts(addresses: Sequence[str]) -> list[str]:
    """IP addresses and names in multiaddresses that lead to a peer without a relay, in their order."""
    found = []
    for address in addresses:
        parts = address.split("/")
        if len(parts) > 2 and parts[1] in _HOSTS and "p2p-circuit" not in parts:
            found.append(parts[2])
    return list(dict.fromkeys(found))
