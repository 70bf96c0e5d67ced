"""What an endpoint's answers mean, and that a request which is given up disturbs no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from deserve_ledger.errors import ChainRefused, ChainUnreachable
from deserve_ledger.evm.chain import BlockReference, RpcChain, TransactionReverted

ACCOUNT = bytes([7]) * 20
HASH, PARENT = bytes([1]) * 32, bytes([2]) * 32
BLOCK = {
    "number": "0x10",
    "hash": "0x" + HASH.hex(),
    "parentHash": "0x" + PARENT.hex(),
    "timestamp": "0x5",
    "extraData": "0x",
}
# EIP-3668: "ask this address, and call again with what it says".
LOOKUP = "0x556f1830" + "00" * 12 + ACCOUNT.hex() + "".join(f"{n:064x}" for n in (160, 192, 0, 224, 0, 0, 0))


@dataclass
class Endpoint:
    """Answers whatever it is asked with `body` and `status`; holds answers back while `gate` is closed."""

    body: Any = None
    status: int = 200
    url: str = ""
    connections: set[Any] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def result(self, value: Any) -> None:
        self.body = {"jsonrpc": "2.0", "id": 1, "result": value}

    def error(self, **fault: Any) -> None:
        self.body = {"jsonrpc": "2.0", "id": 1, "error": fault}

    async def answer(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        self.asked.append(json.loads(await request.read())["method"])
        await self.gate.wait()
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return web.Response(text=text, status=self.status)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    made.gate.set()
    application = web.Application()
    application.router.add_post("/", made.answer)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    made.gate.set()
    await runner.cleanup()


@pytest.fixture
async def rpc(endpoint) -> AsyncIterator[RpcChain]:
    made = RpcChain(endpoint.url)
    yield made
    await made.close()


async def test_a_block_is_read_however_long_its_extra_data_is(endpoint, rpc):
    for length in (0, 97):
        endpoint.result({**BLOCK, "extraData": "0x" + "ab" * length})
        assert await rpc.block("latest") == BlockReference(16, HASH, PARENT, 5)


async def test_what_the_chain_does_not_have_is_none(endpoint, rpc):
    endpoint.result(None)
    assert await rpc.block(5) is None
    assert await rpc.receipt(HASH) is None
    assert not await rpc.is_known(HASH)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "fault",
    [
        {"code": 3, "message": "execution reverted", "data": "0x01020304"},
        {"code": -32000, "message": "Execution reverted", "data": "0x01020304"},
        {"code": -32603, "message": "VM Exception", "data": {"data": "0x01020304"}},
    ],
)
async def test_a_revert_brings_the_contracts_error(endpoint, rpc, fault, status):
    endpoint.status = status
    endpoint.error(**fault)
    with pytest.raises(TransactionReverted) as raised:
        await rpc.call(ACCOUNT, ACCOUNT, b"\1")
    assert raised.value.data == bytes([1, 2, 3, 4])


async def test_a_revert_in_words_keeps_words_and_data(endpoint, rpc):
    words = "0x08c379a0" + "".join(f"{n:064x}" for n in (32, 2)) + "6e6f".ljust(64, "0")
    for code, message in ((3, "execution reverted: no"), (-32000, "VM Exception: reverted with 'no'")):
        endpoint.error(code=code, message=message, data=words)
        with pytest.raises(TransactionReverted, match="no"):
            await rpc.estimate_gas(ACCOUNT, ACCOUNT, b"")


async def test_a_contract_has_nothing_fetched_from_elsewhere(endpoint, rpc):
    endpoint.error(code=3, message="execution reverted", data=LOOKUP)
    with pytest.raises(TransactionReverted) as raised:
        await rpc.call(ACCOUNT, ACCOUNT, b"\1")
    assert raised.value.data == bytes.fromhex(LOOKUP[2:])
    assert endpoint.asked == ["eth_call"]


async def test_an_endpoints_own_error_is_a_refusal_in_its_words(endpoint, rpc):
    endpoint.error(code=-32000, message="already known")
    with pytest.raises(ChainRefused, match=r"^already known$"):
        await rpc.send(b"\2")
    assert endpoint.asked == ["eth_sendRawTransaction"]


@pytest.mark.parametrize("body", ["<html>", "[]", '"no"', "{}", '{"jsonrpc": "2.0", "id": 1}'])
async def test_whatever_is_no_answer_counts_as_none(endpoint, rpc, body):
    endpoint.body = body
    with pytest.raises(ChainUnreachable, match=endpoint.url):
        await rpc.chain_id()
    assert endpoint.asked == ["eth_chainId"]


async def test_connections_are_kept(endpoint, rpc):
    endpoint.result("0x5")
    assert [await rpc.chain_id() for _ in range(5)] == [5] * 5
    assert len(endpoint.connections) == 1


async def test_requests_that_are_given_up_hold_up_no_others(endpoint, rpc):
    endpoint.result("0x5")
    endpoint.gate.clear()
    given_up = [asyncio.create_task(rpc.chain_id()) for _ in range(12)]
    for moment_s in (0, 0.001, 0.002):
        await asyncio.wait(given_up, timeout=moment_s)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        given_up = [asyncio.create_task(rpc.chain_id()) for _ in range(12)]
    endpoint.gate.set()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*given_up) == [5] * 12
        other = RpcChain(endpoint.url)
        assert await other.chain_id() == 5
    await other.close()
