"""The life of a development chain's process: open, serve until a signal, close."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from deserve_ledger.devnet.log import held_folder
from deserve_ledger.devnet.producer import open_producer
from deserve_ledger.devnet.server import serving

__all__ = ["run_devnet"]


async def run_devnet(
    folder: Path,
    host: str,
    port: int,
    block_time_s: float,
    time_control: bool,
    ready: Callable[[dict[str, str | int | float]], None],
) -> signal.Signals:
    """Serve the chain in `folder`; `ready` is told where. Returns the signal that ended it. Raises `DevnetUnusable`."""
    begun = time.monotonic()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    with held_folder(folder):
        producer = open_producer(folder)
        try:
            async with serving(producer, host, port, block_time_s=block_time_s, time_control=time_control) as rpc_url:
                ready(
                    {
                        "rpc_url": rpc_url,
                        "chain_id": producer.chain.chain_id,
                        "block": producer.chain.head.number,
                        "start_s": round(time.monotonic() - begun, 2),
                    }
                )
                return await signals.get()
        finally:
            producer.close()
