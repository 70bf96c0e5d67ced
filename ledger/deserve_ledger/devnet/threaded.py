"""A development chain in a thread of this process: for tests, which need no process of its own to start and watch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deserve_ledger.devnet.chain import Chain
from deserve_ledger.devnet.producer import CHAIN_ID, Producer
from deserve_ledger.devnet.server import serving

__all__ = ["threaded_devnet"]

_START_S = 30


@contextmanager
def threaded_devnet(producer: Producer | None = None, *, block_time_s: float = 0) -> Iterator[str]:
    """The URL of a chain that is forgotten at the end, with its time under the caller's control."""
    ready, ended = threading.Event(), asyncio.Event()
    told: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        made = producer or Producer(Chain(CHAIN_ID, 1_700_000_000), clock=lambda: 1_700_000_000.0)
        async with serving(made, "127.0.0.1", 0, block_time_s=block_time_s, time_control=True) as rpc_url:
            told.append(rpc_url)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="devnet-server", daemon=True)
    thread.start()
    try:
        if not ready.wait(_START_S):
            raise TimeoutError("the development chain did not start")
        yield told[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(_START_S)
        loop.close()
