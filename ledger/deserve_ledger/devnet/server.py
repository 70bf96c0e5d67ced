"""The development chain behind HTTP: one JSON-RPC endpoint, any number of processes.

Every request runs on one thread, one after the other, so nobody sees a block before it is on disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from deserve_ledger.devnet.methods import Methods, RpcError
from deserve_ledger.devnet.producer import Producer
from deserve_ledger.errors import DevnetUnusable

__all__ = ["serving"]

_MOST_BYTES = 1 << 20
_MOST_BATCHED = 256

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    producer: Producer, host: str, port: int, *, block_time_s: float, time_control: bool = False
) -> AsyncIterator[str]:
    """The URL under which the chain answers. An empty block comes every `block_time_s`; 0: never.

    Port 0 takes a free one. Raises `DevnetUnusable` where the address cannot be had.
    """
    methods = Methods(producer, time_control=time_control)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="devnet") as thread:

        async def handle(request: web.Request) -> web.Response:
            try:
                asked = json.loads(await request.read())
            except ValueError:
                return web.json_response(_failed(None, -32700, "parse error"))
            if isinstance(asked, list) and not 0 < len(asked) <= _MOST_BATCHED:
                return web.json_response(_failed(None, -32600, f"a batch holds 1 to {_MOST_BATCHED} requests"))
            return web.json_response(await loop.run_in_executor(thread, _answer_all, methods, asked))

        application = web.Application(client_max_size=_MOST_BYTES)
        application.router.add_post("/", handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        ticking: asyncio.Task[None] | None = None
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise DevnetUnusable(f"listen: {host}:{port}: {error.strerror}") from error
            if block_time_s:
                ticking = asyncio.create_task(_tick(producer, thread, block_time_s))
            yield f"http://{host}:{runner.addresses[0][1]}"
        finally:
            if ticking is not None:
                ticking.cancel()
            await runner.cleanup()


async def _tick(producer: Producer, thread: ThreadPoolExecutor, block_time_s: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(block_time_s)
        await loop.run_in_executor(thread, producer.mine_if_due, block_time_s)


def _answer_all(methods: Methods, asked: Any) -> Any:
    return [_answer(methods, one) for one in asked] if isinstance(asked, list) else _answer(methods, asked)


def _answer(methods: Methods, asked: Any) -> dict[str, Any]:
    if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
        return _failed(None, -32600, "invalid request")
    params = asked.get("params") or []
    if not isinstance(params, list):
        return _failed(asked.get("id"), -32602, "params must be a list")
    try:
        result = methods.answer(asked["method"], params)
    except RpcError as error:
        return _failed(asked.get("id"), error.code, str(error), error.detail)
    return {"jsonrpc": "2.0", "id": asked.get("id"), "result": result}


def _failed(request_id: Any, code: int, message: str, detail: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if detail is not None:
        error["data"] = detail
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
