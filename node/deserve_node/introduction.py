"""The start of a session: Hello, Welcome, Offer. Decides whether this node and the coordinator's model fit together."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

import torch

from deserve_models import ModelError, ModelFiles, inspect, resolve
from deserve_network.channel import Channel
from deserve_network.control_messages import PROTOCOL_VERSION, Hello, ModelRef, Offer, Refused, Welcome
from deserve_network.errors import ChannelClosed
from deserve_network.money_messages import LedgerRef
from deserve_node.background import BackgroundThread
from deserve_node.errors import NodeError
from deserve_node.measure import measure_layer_time, speed_class
from deserve_node.settings import NodeSettings, read_join_token
from deserve_node.tensors import DTYPES
from deserve_node.timed.stage import timed_offer
from deserve_node.wallet.wallet import Wallet

__all__ = ["HELLO_DEADLINE_S", "Introduction", "RefusedError", "Served", "heed_refusal"]

HELLO_DEADLINE_S = 30.0
_PASSING_REASONS = {"message", "nodes"}
"""Fields of a Refused that another attempt can change: something came late, or there is no room just now."""


class RefusedError(NodeError):
    """The coordinator will not have this node, or this node the coordinator, and trying again would not change that."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model of this session, and how often the coordinator wants to hear from us."""

    model: ModelRef
    files: ModelFiles
    stats_interval_s: float
    ledger: LedgerRef | None = None
    """Where work is paid; None: nowhere."""


class Introduction:
    """What this node says of itself at the start of every session."""

    def __init__(
        self,
        settings: NodeSettings,
        device: torch.device,
        memory_bytes: int,
        thread: BackgroundThread,
        *,
        hello_deadline_s: float = HELLO_DEADLINE_S,
        wallet: Wallet | None = None,
    ) -> None:
        self._settings = settings
        self._device = device
        self._memory_bytes = memory_bytes
        self._thread = thread
        self._hello_deadline_s = hello_deadline_s
        self._wallet = wallet

    async def hold(self, channel: Channel, peer_id: str, listening: tuple[str, ...]) -> Served:
        """Greet, and offer what was measured. Raises `RefusedError`, and `ChannelClosed` where later may be better."""
        settings = self._settings
        addresses = (f"{settings.announce}/p2p/{peer_id}",) if settings.announce else listening[:16]
        token = read_join_token(settings.join_token_file)
        hello = Hello(PROTOCOL_VERSION, settings.name, addresses, self._memory_bytes, str(self._device), token)
        try:
            async with asyncio.timeout(self._hello_deadline_s):
                await channel.send(hello)
                welcome = await channel.receive()
        except TimeoutError:
            raise ChannelClosed(f"the coordinator did not answer Hello within {self._hello_deadline_s:g} s") from None
        if isinstance(welcome, Refused):
            heed_refusal(welcome)
        if not isinstance(welcome, Welcome):
            raise RefusedError(f"the coordinator answered Hello with {type(welcome).__name__}")
        wallet = self._wallet
        if wallet is not None and (fault := wallet.fault(welcome.ledger)) is not None:
            await channel.send(Refused("ledger", fault))
            raise RefusedError(f"this node does not work for the coordinator: {fault}")
        try:
            files, offer = await self._thread.run(lambda: self._measure(welcome.model))
        except RefusedError as error:
            await channel.send(Refused("model", str(error)[:1024]))
            raise
        if wallet is not None and welcome.ledger is not None:
            offer = dataclasses.replace(offer, account=wallet.account, prices=wallet.asked)
        await channel.send(offer)
        return Served(welcome.model, files, welcome.stats_interval_s, welcome.ledger)

    def _measure(self, model: ModelRef) -> tuple[ModelFiles, Offer]:
        dtype = DTYPES.get(model.dtype)
        if dtype is None:
            raise RefusedError(f"this node cannot compute in {model.dtype!r}")
        try:
            files = self._resolve(model)
            summary = inspect(files, dtype=model.dtype)
        except ModelError as error:
            raise RefusedError(f"model {model.id!r} is not here: {error}; see --model-path") from error
        if (profile := self._settings.profile) is not None:
            return files, timed_offer(profile, files)
        layer_bytes = max(summary.layer_bytes)
        return files, Offer(
            files.digest,
            measure_layer_time(layer_bytes, summary.hidden_size, dtype, self._device),
            speed_class(self._device),
            layer_bytes,
            summary.edge_bytes,
            summary.kv_bytes_per_token_layer,
        )

    def _resolve(self, model: ModelRef) -> ModelFiles:
        places = dict(pair.split("=", 1) for pair in self._settings.model_paths)
        files = resolve(places.get(model.id, model.id), revision=model.revision or None)
        if files.digest != model.digest:
            raise RefusedError(f"model {model.id!r} in {files.directory} is not the one that the coordinator serves")
        return files


def heed_refusal(message: Refused) -> None:
    """Raises `ChannelClosed` for a reason that passes, else `RefusedError`."""
    if message.field in _PASSING_REASONS:
        raise ChannelClosed(f"the coordinator broke off: {message.field}: {message.reason}")
    raise RefusedError(f"the coordinator refused this node: {message.field}: {message.reason}")
