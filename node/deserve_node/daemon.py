"""The node's daemon: one libp2p host, one session with the coordinator, at most one ring membership at a time.

The session is a loop: dial, Hello, Welcome, Offer, then messages until the channel ends; then again after a pause. The
membership runs as a task beside it. The daemon decides nothing about rings: it does what Assign, Begin and Release say.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Callable

import torch

from deserve_models import ModelError, ModelFiles, inspect, resolve
from deserve_network.channel import Channel
from deserve_network.control_messages import (
    CONTROL,
    CONTROL_PROTOCOL,
    PROTOCOL_VERSION,
    Assign,
    Begin,
    Cancel,
    Hello,
    Lease,
    ModelRef,
    Offer,
    Refused,
    Release,
    RowsDone,
    RowsStored,
    Stats,
    Welcome,
)
from deserve_network.errors import NetworkError
from deserve_network.host import Host
from deserve_network.links import Links
from deserve_node.errors import NodeError
from deserve_node.measure import measure_layer_time, total_memory_bytes
from deserve_node.member import Lending, RingMember
from deserve_node.settings import NodeSettings
from deserve_node.tensors import DTYPES

__all__ = ["Daemon", "RefusedError"]

log = logging.getLogger(__name__)

HELLO_DEADLINE_S = 30.0
RECONNECT_S = (0.5, 15.0)


class RefusedError(NodeError):
    """The coordinator will not have this node, and trying again would not change that."""


class Daemon:
    """Runs one node. `registered` is called once, when the coordinator has accepted the first offer."""

    def __init__(self, settings: NodeSettings, host: Host, *, registered: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.host = host
        self.device = _device(settings.device)
        self.memory_bytes = settings.memory_bytes or total_memory_bytes(self.device) // 2
        self.connected = False
        self.member: RingMember | None = None
        self.ring_failures = 0
        self._links = Links(host)
        self._registered = registered
        self._serving: asyncio.Task[None] | None = None
        self._reports = itertools.count()
        self._orphans: dict[int, RowsDone] = {}
        """Results of rings that we have left, until the coordinator has stored them."""
        self._started_s = time.monotonic()

    def stats(self) -> Stats:
        """What the coordinator is told every few seconds, and the operator sees."""
        uptime = time.monotonic() - self._started_s
        if self.member is not None:
            return self.member.stats(uptime)
        return Stats("", 0, uptime, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0.0)

    async def run(self) -> None:
        """Serve until cancelled. Raises `RefusedError` where the coordinator refuses this node for good."""
        pause = RECONNECT_S[0]
        try:
            while True:
                try:
                    await self._session()
                    pause = RECONNECT_S[0]
                except NetworkError as error:
                    log.warning("no session with the coordinator: %s; trying again in %.1f s", error, pause)
                finally:
                    self.connected = False
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RECONNECT_S[1])
        finally:
            await self._leave()
            await self._links.close()

    async def _session(self) -> None:
        stream = await self.host.open_stream(self.settings.coordinator, CONTROL_PROTOCOL)
        channel = Channel(stream, CONTROL)
        try:
            welcome = await self._introduce(channel)
            # A coordinator that welcomes us anew knows nothing of the ring we are in, but it wants what the ring did.
            for report in self._orphans.values():
                await channel.send(report)
            await self._leave(channel)
            self.connected = True
            self._registered()
            log.info("registered with %s for %s", channel.peer_id, welcome.model.id)
            async with asyncio.TaskGroup() as tasks:
                stats = tasks.create_task(self._report(channel, welcome.stats_interval_s))
                await self._obey(channel)
                stats.cancel()
        except* NetworkError as group:
            log.warning("the session ended: %s", group.exceptions[0])
        finally:
            await channel.close()

    async def _introduce(self, channel: Channel) -> Welcome:
        async with asyncio.timeout(HELLO_DEADLINE_S):
            await channel.send(
                Hello(
                    PROTOCOL_VERSION,
                    self.settings.name,
                    self._addresses(),
                    self.memory_bytes,
                    str(self.device),
                    self.settings.join_token,
                )
            )
            welcome = await channel.receive()
        if isinstance(welcome, Refused):
            raise RefusedError(f"the coordinator refused this node: {welcome.field}: {welcome.reason}")
        if not isinstance(welcome, Welcome):
            raise RefusedError(f"the coordinator answered Hello with {type(welcome).__name__}")
        await channel.send(await asyncio.to_thread(self._offer, welcome.model))
        return welcome

    def _addresses(self) -> tuple[str, ...]:
        if self.settings.announce:
            return (f"{self.settings.announce}/p2p/{self.host.peer_id}",)
        return self.host.addresses[:16]

    def _offer(self, model: ModelRef) -> Offer:
        files = self._files(model)
        dtype = DTYPES.get(model.dtype)
        if dtype is None:
            raise RefusedError(f"this node cannot compute in {model.dtype!r}")
        summary = inspect(files, dtype=model.dtype)
        layer_bytes = max(summary.layer_bytes)
        return Offer(
            files.digest,
            measure_layer_time(layer_bytes, summary.hidden_size, dtype, self.device),
            layer_bytes,
            summary.edge_bytes,
            summary.kv_bytes_per_token_layer,
        )

    def _files(self, model: ModelRef) -> ModelFiles:
        places = dict(pair.split("=", 1) for pair in self.settings.model_paths if "=" in pair)
        try:
            files = resolve(places.get(model.id, model.id), revision=model.revision or None)
        except ModelError as error:
            raise RefusedError(f"model {model.id!r} is not here: {error}; see --model-path") from error
        if files.digest != model.digest:
            raise RefusedError(f"model {model.id!r} in {files.directory} is not the one that the coordinator serves")
        return files

    async def _report(self, channel: Channel, interval_s: float) -> None:
        while True:
            await channel.send(self.stats())
            await asyncio.sleep(interval_s)

    async def _obey(self, channel: Channel) -> None:
        while True:
            message = await channel.receive()
            if isinstance(message, Refused):
                raise RefusedError(f"the coordinator refused this node: {message.field}: {message.reason}")
            if isinstance(message, Assign):
                await self._leave(channel)
                self._join(message, channel)
                continue
            member = self.member
            if isinstance(message, RowsStored):
                self._orphans.pop(message.report, None)
            if member is None or not _concerns(message, member):
                log.info("passed over %s for a ring that this node has left", type(message).__name__)
            elif isinstance(message, Begin):
                member.begin(message)
            elif isinstance(message, Lease):
                await member.lease(message)
            elif isinstance(message, Cancel):
                member.cancel(message.rows)
            elif isinstance(message, RowsStored):
                member.outbox.stored(message)
            elif isinstance(message, Release):
                await self._leave(channel)

    def _join(self, assign: Assign, channel: Channel) -> None:
        lending = Lending(
            self.host.peer_id,
            self.device,
            self.memory_bytes,
            self.settings.max_rows,
            self.settings.token_budget,
        )
        self.member = RingMember(assign, self._files(assign.model), self._links, lending, self._reports)
        self._serving = asyncio.create_task(self._serve(self.member, channel), name=f"ring {assign.ring}")

    async def _serve(self, member: RingMember, channel: Channel) -> None:
        """The membership's life; a failure of any kind is reported and ends only the membership."""
        ring = f"ring {member.assign.ring} epoch {member.assign.epoch} stage {member.assign.stage}"
        try:
            ready = await member.prepare()
            await channel.send(ready)
            log.info("%s: ready", ring)
            async with asyncio.TaskGroup() as tasks:
                delivery = tasks.create_task(member.outbox.deliver(channel.send))
                await member.run()
                delivery.cancel()
        except Exception as error:
            self.ring_failures += 1
            failure = member.failure(error)
            expected = isinstance(error, (NodeError, NetworkError, ExceptionGroup))
            log.log(logging.WARNING, "%s: failed: %s", ring, failure.reason, exc_info=not expected)
            with contextlib.suppress(NetworkError):
                returned = member.returned()
                if returned is not None:
                    await channel.send(returned)
                await channel.send(failure)

    async def _leave(self, channel: Channel | None = None) -> None:
        """Give up the membership; a coordinator at the other end of `channel` gets results and unfinished rows."""
        member, serving = self.member, self._serving
        self.member = self._serving = None
        if member is None or serving is None:
            return
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        self._orphans.update((report.report, report) for report in member.outbox.unstored)
        try:
            if channel is not None:
                for report in member.outbox.unstored:
                    await channel.send(report)
                returned = member.returned()
                if returned is not None:
                    await channel.send(returned)
        finally:
            await member.close()


def _concerns(message: object, member: RingMember) -> bool:
    ring = getattr(message, "ring", member.assign.ring)
    epoch = getattr(message, "epoch", member.assign.epoch)
    return (ring, epoch) == (member.assign.ring, member.assign.epoch)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NodeError("device: no CUDA device is usable here; choose --device cpu")
    return device
