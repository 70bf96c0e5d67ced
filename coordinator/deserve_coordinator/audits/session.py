"""One node's audit stream: what it is told leaves in order, as fast as it takes it, and what it shows comes in parts.

Only one piece of evidence is taken from a node at a time, and only one that was asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator

from deserve_coordinator.audits.spool import Incoming
from deserve_coordinator.session import ControlChannel
from deserve_network.audit_messages import EvidenceRequest
from deserve_network.errors import NetworkError

__all__ = ["AuditSession"]

log = logging.getLogger(__name__)


class AuditSession:
    def __init__(self, channel: ControlChannel, node_id: bytes) -> None:
        self.channel = channel
        self.peer_id = channel.peer_id
        self.node_id = node_id
        self.asked: dict[bytes, EvidenceRequest] = {}
        """Evidence that it was asked for and has not shown, by audit."""
        self.incoming: Incoming | None = None
        self._outbox: asyncio.Queue[Iterator[object]] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write(), name=f"audits of {self.peer_id}")

    def send(self, message: object, parts: Iterable[object] = ()) -> None:
        """Put a message in line, and what belongs behind it; parts are read when it is their turn."""
        self._outbox.put_nowait(itertools.chain((message,), parts))

    async def _write(self) -> None:
        try:
            while True:
                messages = await self._outbox.get()
                while (message := await asyncio.to_thread(next, messages, None)) is not None:
                    await self.channel.send(message)
        except (NetworkError, OSError) as error:
            log.info("audits of %s: %s", self.peer_id, error)
            await self.channel.close()

    def stop_receiving(self) -> None:
        if self.incoming is not None:
            self.incoming.abandon()
            self.incoming = None

    async def close(self) -> None:
        self.stop_receiving()
        self._writer.cancel()
        await asyncio.wait([self._writer])
        await self.channel.close()
