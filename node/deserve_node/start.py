"""Putting a node's parts together and taking them down again: data directory, identity, host, daemon, status server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

import torch

from deserve_network.host import Host
from deserve_network.identity import load_or_create_identity
from deserve_node.daemon import Daemon
from deserve_node.http import StatusServer
from deserve_node.settings import NodeSettings
from deserve_node.status import published
from deserve_node.wallet.opening import opened_wallet
from deserve_process.data_directory import locked_data

__all__ = ["run_node"]

SWITCH_INTERVAL_S = 0.0005
"""Compute, asyncio and libp2p share one interpreter: with Python's own 5 ms, each kernel's return waits for the others.
Measured on a ring of four on two cores: 15 % less processor time a token."""

Announce = Callable[[str, str, tuple[str, ...], str], None]


async def run_node(settings: NodeSettings, *, announce: Announce, passphrase: str = "") -> signal.Signals | None:
    """Run until SIGINT or SIGTERM, and return which. `announce(name, peer_id, addresses, http)` is called once it is
    registered. `passphrase` is the receipt key's, where there is one.

    Raises `NodeError`, `NetworkError` or `ProcessError` where the node cannot run.
    """
    running = asyncio.create_task(_run(settings, announce, passphrase))
    told_by: signal.Signals | None = None

    def end(number: signal.Signals) -> None:
        nonlocal told_by
        told_by = number
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await running
    except asyncio.CancelledError:
        if told_by is None:
            raise
    return told_by


async def _run(settings: NodeSettings, announce: Announce, passphrase: str) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked_data(settings.data, "node"))
        identity = load_or_create_identity(settings.data / "identity.key")
        wallet = await stack.enter_async_context(opened_wallet(settings, identity, passphrase))
        tensor_port = settings.tensor_port if settings.carrier == "auto" else None
        host = await stack.enter_async_context(
            await Host.start(identity, [settings.listen], tensor_port=tensor_port, congestion=settings.congestion)
        )
        unannounced = [announce]

        def registered() -> None:
            if unannounced:
                unannounced.pop()(settings.name, host.peer_id, host.addresses, http.address)

        daemon = Daemon(settings, host, registered=registered, wallet=wallet)
        http = await StatusServer.start(daemon, settings.http)
        stack.push_async_callback(http.close)
        stack.enter_context(published(http.address, settings.data))
        await daemon.run()
