"""Two real hosts on loopback, and links between them with short deadlines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from deserve_network.host import Host
from deserve_network.identity import generate_identity

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[Host, Host]]:
    async with (
        await Host.start(generate_identity(), [LOOPBACK]) as here,
        await Host.start(generate_identity(), [LOOPBACK]) as there,
    ):
        yield here, there
