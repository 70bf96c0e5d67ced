"""`deserve testnet up`: a network that stays until somebody ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from deserve_testnet.config import TestnetConfig
from deserve_testnet.testnet import Testnet

__all__ = ["serve"]


async def serve(
    config: TestnetConfig, announce: Callable[[dict[str, Any]], None], say: Callable[[str], None] = lambda line: None
) -> None:
    """Call `announce` once with what a client needs when every ring serves, then wait to be cancelled.

    `say` hears how the start goes on.

    Raises ProcessDied when a process of the network ends by itself.
    """
    async with Testnet(config, say) as net:
        line: dict[str, Any] = {"base_url": net.base_url, "api_key": net.api_key, "multiaddr": net.multiaddr}
        if net.internet is not None:
            # Coordinator, nodes, spare ones: what `ip netns exec` and `--listen` need to start another node.
            line["namespaces"] = dict(zip(net.internet.namespaces, net.internet.addresses, strict=True))
        announce(line)
        await net.unless_one_dies(asyncio.Event().wait())
