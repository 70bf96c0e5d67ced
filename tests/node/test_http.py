"""The operator's window: health, metrics that Prometheus can read, status, and a port that is taken."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deserve_network.control_messages import LeaseRequest, RowsDone
from deserve_node.http import HttpError, StatusServer
from deserve_node.status import StatusError, fetch_status


async def get(address, path):
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        assert response.status == 200
        return await response.text()


@pytest.fixture
async def serve():
    servers = []

    async def start(daemon, where="127.0.0.1:0"):
        servers.append(await StatusServer.start(daemon, where))
        return servers[-1].address

    yield start
    for server in servers:
        await server.close()


async def test_a_node_shows_what_it_does(coordinator, start_node, serve, leased):
    daemon = (await start_node()).daemon
    address = await serve(daemon)
    session = await coordinator.join()
    idle = await fetch_status(address)
    assert (idle["layers"], idle["ring"], idle["peer_id"]) == (None, "", daemon.host.peer_id)
    await coordinator.begin(session)
    await session.hear(LeaseRequest)
    await session.tell(leased(range(2)))
    await session.hear(RowsDone)
    busy = await fetch_status(address)
    assert (busy["layers"], busy["ring"], busy["stages"]) == ([0, 8], "r-1", 1)
    assert busy["tokens"] > 0
    assert busy["connected"] is True

    families = {family.name: family for family in text_string_to_metric_families(await get(address, "/metrics"))}
    assert families["deserve_node_connected"].samples[0].value == 1
    assert families["deserve_node_tokens"].type == "counter"
    assert families["deserve_node_tokens"].samples[0].value > 0
    assert families["deserve_node_kv_pages"].type == "gauge"
    assert families["deserve_node_ring_failures"].samples[0].value == 0
    assert await get(address, "/healthz") == '{"status": "ok", "connected": true}'


async def test_a_port_in_use_is_named(coordinator, start_node):
    daemon = (await start_node()).daemon
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HttpError, match=where):
            await StatusServer.start(daemon, where)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_an_ipv6_address_can_be_asked(coordinator, start_node, serve):
    daemon = (await start_node()).daemon
    try:
        address = await serve(daemon, "[::1]:0")
    except HttpError as error:
        pytest.skip(str(error))
    assert address.startswith("[::1]:")
    assert (await fetch_status(address))["peer_id"] == daemon.host.peer_id


async def test_what_is_no_node_is_said_to_be_none():
    from aiohttp import web

    async def nonsense(_):
        return web.json_response(["nonsense"])

    app = web.Application()
    app.add_routes([web.get("/status", nonsense)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(StatusError, match="no node's"):
            await fetch_status(f"127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
    with pytest.raises(StatusError, match="no answer"):
        await fetch_status("127.0.0.1:1")
