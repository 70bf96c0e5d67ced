"""`deserve testnet up`: a network that stays until somebody ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deserve_testnet.config import TestnetConfig
from deserve_testnet.testnet import Testnet

__all__ = ["serve"]


async def serve(config: TestnetConfig, announce: Callable[[dict[str, str]], None]) -> None:
    """Call `announce` once with what a client needs when every ring serves, then wait to be cancelled.

    Raises ProcessDied when a process of the network ends by itself.
    """
    async with Testnet(config) as net:
        announce({"base_url": net.base_url, "api_key": net.api_key, "multiaddr": net.multiaddr})
        await net.unless_one_dies(asyncio.Event().wait())
