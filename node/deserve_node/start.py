"""Putting a node's parts together and taking them down again: identity, host, daemon, status server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import torch

from deserve_network.host import Host
from deserve_network.identity import load_or_create_identity
from deserve_node.daemon import Daemon
from deserve_node.http import StatusServer
from deserve_node.settings import NodeSettings

__all__ = ["ADDRESS_FILE", "fetch_status", "run_node"]

ADDRESS_FILE = "http.address"
"""In the data directory while a node runs: where its status is."""

Announce = Callable[[str, str, tuple[str, ...], str], None]


async def run_node(settings: NodeSettings, *, announce: Announce) -> None:
    """Run until SIGINT or SIGTERM. `announce(name, peer_id, addresses, http)` is called once it is registered.

    Raises `NodeError` or `NetworkError` (or a group of them) where the node cannot run.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    host = await Host.start(load_or_create_identity(settings.data / "identity.key"), [settings.listen])
    registered = asyncio.Event()
    daemon = Daemon(settings, host, registered=registered.set)
    address_file = settings.data / ADDRESS_FILE
    try:
        http = await StatusServer.start(daemon, settings.http)
        address_file.write_text(http.address)
        running = asyncio.create_task(daemon.run())
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, running.cancel)

        async def say_when_registered() -> None:
            await registered.wait()
            announce(settings.name, host.peer_id, host.addresses, http.address)

        saying = asyncio.create_task(say_when_registered())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await running
        finally:
            saying.cancel()
            address_file.unlink(missing_ok=True)
            await http.close()
    finally:
        await host.close()


async def fetch_status(address: str) -> dict[str, Any]:
    """The /status of a node. Raises `OSError` (aiohttp's connection errors are) or `ValueError`."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://{address}/status") as response:
        found: dict[str, Any] = await response.json()
        return found
