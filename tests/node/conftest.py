"""Daemons against a scripted coordinator: real hosts and channels on loopback, the tiny model, one process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deserve_models import ModelFiles, resolve
from deserve_network.channel import Channel
from deserve_network.control_messages import (
    CONTROL,
    CONTROL_PROTOCOL,
    Assign,
    Begin,
    Hello,
    Lease,
    LeasedRow,
    ModelRef,
    Offer,
    StagePlace,
    StageReady,
    Stats,
    Welcome,
)
from deserve_network.errors import ChannelClosed
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link_session import LinkTimes
from deserve_network.links import Links
from deserve_network.money_messages import LedgerRef
from deserve_node.daemon import Daemon
from deserve_node.settings import NodeSettings

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
DEADLINE_S = 30
TIMES = LinkTimes(connect_s=4, reconnect_s=1, heartbeat_s=0.05, silence_s=2, flush_s=0.2)


class NodeSession:
    """The coordinator's end of one node's channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.hello: Hello | None = None
        self.offer: Offer | None = None
        self.heard: list[Any] = []
        """What came and was not asked for, Stats apart."""

    async def tell(self, *messages: object) -> None:
        for message in messages:
            await self.channel.send(message)

    async def hear(self, *kinds: type) -> Any:
        """The next message of one of these kinds."""
        async with asyncio.timeout(DEADLINE_S):
            for message in self.heard:
                if isinstance(message, kinds):
                    self.heard.remove(message)
                    return message
            while True:
                message = await self.channel.receive()
                if isinstance(message, kinds):
                    return message
                if not isinstance(message, Stats):
                    self.heard.append(message)

    async def ended(self) -> None:
        """Until the node has closed the channel."""
        with contextlib.suppress(ChannelClosed):
            await self.hear(type(None))

    async def greet(self, model: ModelRef, ledger: LedgerRef | None = None) -> Offer:
        self.hello = await self.hear(Hello)
        await self.tell(Welcome(1, model, 0.05, ledger))
        self.offer = await self.hear(Offer)
        return self.offer


class ScriptedCoordinator:
    """A host that hands each node's channel to the test."""

    def __init__(self, host: Host, model: ModelRef) -> None:
        self.host = host
        self.model = model
        self.ledger: LedgerRef | None = None
        self.sessions: asyncio.Queue[NodeSession] = asyncio.Queue()
        host.handle(CONTROL_PROTOCOL, self._serve)

    async def _serve(self, stream: Any) -> None:
        self.sessions.put_nowait(NodeSession(Channel(stream, CONTROL, silence_s=5)))

    @property
    def address(self) -> str:
        return self.host.addresses[0]

    async def next_session(self) -> NodeSession:
        async with asyncio.timeout(DEADLINE_S):
            return await self.sessions.get()

    async def join(self) -> NodeSession:
        """The next node that comes, greeted."""
        session = await self.next_session()
        await session.greet(self.model, self.ledger)
        return session

    def ring(self, *sessions: NodeSession, ring: str = "r-1", epoch: int = 1, layers: int = 8) -> list[Assign]:
        """One Assign for each session, in the order of the ring; layers in equal parts."""
        share = layers // len(sessions)
        places = tuple(
            StagePlace(s.channel.peer_id, s.hello.name, s.hello.addresses, n * share, (n + 1) * share)
            for n, s in enumerate(sessions)
        )
        return [Assign(ring, epoch, n, places, self.model, ()) for n in range(len(sessions))]

    async def begin(self, *sessions: NodeSession, ring: str = "r-1", epoch: int = 1) -> list[StageReady]:
        """Assign, wait until every stage is ready, and tell the head."""
        for session, assign in zip(sessions, self.ring(*sessions, ring=ring, epoch=epoch), strict=True):
            await session.tell(assign)
        ready = [await session.hear(StageReady) for session in sessions]
        await sessions[0].tell(Begin(ring, epoch, tuple(ready)))
        return ready


def lease_of(rows: range, *, lease: int = 1, fence: int = 1, max_tokens: int = 4, **parameters: Any) -> Lease:
    """Greedy rows of the tiny model."""
    body = {"model": "tiny", "temperature": 0, "ignore_eos": True, "max_tokens": max_tokens, **parameters}
    leased = tuple(
        LeasedRow(n, "/v1/completions", json.dumps({**body, "prompt": f"row {n}"}).encode(), n) for n in rows
    )
    return Lease(lease, fence, 60.0, leased)


@pytest.fixture
def leased() -> Callable[..., Lease]:
    return lease_of


@pytest.fixture(scope="session")
def tiny_files(tiny_model: Path) -> ModelFiles:
    return resolve(str(tiny_model))


@pytest.fixture
async def coordinator(tiny_files: ModelFiles) -> AsyncIterator[ScriptedCoordinator]:
    async with await Host.start(generate_identity(), [LOOPBACK]) as host:
        yield ScriptedCoordinator(host, ModelRef(tiny_files.id, "", tiny_files.digest, "float32"))


class RunningNode:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.task = asyncio.create_task(daemon.run())

    async def end(self) -> None:
        """As SIGTERM does."""
        self.task.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([self.task])


@pytest.fixture
async def start_node(
    coordinator: ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """`await start_node(memory_bytes=...)` runs a daemon; what is left of it ends with the test.

    `open_wallet(identity)` is what opens its wallet.
    """
    monkeypatch.setattr("deserve_node.measure.WINDOW_S", 0.0)  # nobody plans with these times
    nodes: list[RunningNode] = []
    async with contextlib.AsyncExitStack() as stack:
        torch.set_num_threads(1)

        async def start(*, open_wallet: Callable[..., Any] = lambda identity: None, **changes: Any) -> RunningNode:
            identity = generate_identity()
            wallet = open_wallet(identity)
            host = await stack.enter_async_context(await Host.start(identity, [LOOPBACK]))
            name = f"node-{len(nodes) + 1}"
            (tmp_path / name).mkdir()
            settings = NodeSettings(
                tmp_path / name,
                **{
                    "coordinator": coordinator.address,
                    "name": name,
                    "memory_bytes": 32 << 20,
                    "device": "cpu",
                    "max_rows": 16,
                    **changes,
                },
            )
            links = Links(host, times=TIMES, unknown_name_s=0.2)
            nodes.append(RunningNode(Daemon(settings, host, links=links, wallet=wallet, reconnect_s=(0.02, 0.1))))
            return nodes[-1]

        yield start
        await asyncio.gather(*(node.end() for node in nodes))


@pytest.fixture(autouse=True)
def no_task_fails_unseen(caplog: pytest.LogCaptureFixture) -> Any:
    """asyncio tells of exceptions that nobody retrieved in its log only."""
    yield
    told = [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.levelno >= 40]
    assert told == []
