"""What is said when a testnet does not get ready: only what is true."""

from __future__ import annotations

import asyncio
import socket

import pytest

from deserve_testnet import network_view, testnet
from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import TestnetError


def start_by(monkeypatch, start):
    monkeypatch.setattr(testnet.Testnet, "_start", start)
    return testnet.Testnet(TestnetConfig(start_deadline_s=0.05))


async def test_rings_that_are_late_are_said_to_be(monkeypatch):
    async def never(self, stack):
        await asyncio.Event().wait()

    with pytest.raises(TestnetError, match="rings were not ready after 0 s"):
        async with start_by(monkeypatch, never):
            pass


async def test_another_wait_that_ends_is_not_taken_for_late_rings(monkeypatch):
    async def fail(self, stack):
        raise TimeoutError("of another wait")

    with pytest.raises(TimeoutError, match="of another wait"):
        async with start_by(monkeypatch, fail):
            pass


async def test_a_silent_coordinator_is_named(monkeypatch):
    monkeypatch.setattr(network_view, "_REQUEST_DEADLINE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody reads
        async with network_view.NetworkView(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "key") as view:
            with pytest.raises(TestnetError, match="the coordinator gave no answer"):
                await view.read()


async def test_the_start_is_told_step_by_step(monkeypatch):
    async def coordinator(self, http, listen):
        self.base_url, self.api_key, self.multiaddr = "http://127.0.0.1:1/v1", "key", "/ip4/127.0.0.1/tcp/1"

    async def nothing(*_):
        pass

    monkeypatch.setattr(testnet, "check_ring_size", nothing)
    monkeypatch.setattr(testnet.Testnet, "_start_coordinator", coordinator)
    monkeypatch.setattr(testnet.Testnet, "add_node", nothing)
    monkeypatch.setattr(testnet.Testnet, "until_serving", nothing)
    said: list[str] = []
    async with testnet.Testnet(TestnetConfig(nodes=2, rings=2), said.append):
        pass
    assert said == [
        "starting a coordinator and 2 nodes; the model is demo",
        "the coordinator is ready",
        "node 1 of 2 registered",
        "node 2 of 2 registered",
        "ring 1 of 2 serves",
        "ring 2 of 2 serves",
    ]
