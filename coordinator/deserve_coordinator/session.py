"""One node's control channel as the supervisor sees it: an outbox in order, the last Stats, an end with a reason."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from deserve_coordinator.money.registry import NodeAccount
from deserve_network.control_messages import Hello, Refused, Stats
from deserve_network.errors import NetworkError

__all__ = ["ControlChannel", "Session"]

log = logging.getLogger(__name__)


class ControlChannel(Protocol):
    """What is used of `deserve_network.channel.Channel`."""

    peer_id: str

    async def send(self, message: object) -> None: ...
    async def receive(self) -> Any: ...
    async def close(self) -> None: ...
    def trust(self) -> None: ...


class Session:
    """Messages leave in the order they were put in; nothing that puts one has to wait for the network."""

    def __init__(self, channel: ControlChannel) -> None:
        self.channel = channel
        self.peer_id = channel.peer_id
        self.hello: Hello | None = None
        self.stats: Stats | None = None
        self.account: NodeAccount | None = None
        """Who is paid for what this node does; None where nothing is paid."""
        self._outbox: asyncio.Queue[object | None] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write(), name=f"outbox of {self.peer_id}")

    @property
    def name(self) -> str:
        return self.peer_id if self.hello is None else self.hello.name

    def send(self, message: object) -> None:
        self._outbox.put_nowait(message)

    def refuse(self, field: str, reason: str) -> None:
        """Say why, then close; the receiver of this channel ends by itself."""
        log.warning("node %s refused: %s: %s", self.name, field, reason)
        self._outbox.put_nowait(Refused(field[:64], reason[:1024]))
        self._outbox.put_nowait(None)

    async def _write(self) -> None:
        try:
            while (message := await self._outbox.get()) is not None:
                await self.channel.send(message)
        except NetworkError as error:
            log.info("node %s cannot be written to: %s", self.name, error)
        await self.channel.close()

    async def close(self, timeout_s: float = 5.0) -> None:
        """Send what is in the outbox, close the channel, end the writer. Nothing is left running."""
        self._outbox.put_nowait(None)
        try:
            async with asyncio.timeout(timeout_s):
                await self._writer
        except TimeoutError:
            await self.channel.close()
