"""Keeps a node's audit stream open for as long as its session with the coordinator lasts, and finds it a judge."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from pathlib import Path

import torch

from deserve_models import ModelFiles
from deserve_network.audit_messages import AUDIT, AUDIT_PROTOCOL
from deserve_network.channel import Channel
from deserve_network.errors import NetworkError
from deserve_network.host import Host
from deserve_node.audit.clerk import Clerk, Judge
from deserve_node.audit.errors import ToleranceInvalid
from deserve_node.audit.exhibit import exhibit
from deserve_node.audit.juror import Juror
from deserve_node.audit.profile import load_profile, shipped_profile
from deserve_node.audit.worker import AuditWorker
from deserve_node.background import BackgroundThread
from deserve_node.proof.evidence import EvidenceStore

__all__ = ["AUDIT_NICENESS", "attend", "clerk_for", "judge_for"]

log = logging.getLogger(__name__)

AUDIT_NICENESS = 10
"""Of the thread that replays: a ring's steps come first."""
_PAUSE_S = (0.5, 15.0)


def judge_for(
    files: ModelFiles, dtype: str, tolerances: Path | None, thread: BackgroundThread, device: torch.device, memory: int
) -> Judge | None:
    """Who replays on this node, with `memory` bytes for weights; None where nobody has measured tolerances.

    Raises `ToleranceInvalid` for a file that is there and cannot be used.
    """
    if tolerances is None:
        try:
            profile = shipped_profile(files.digest, dtype)
        except ToleranceInvalid as error:
            log.warning("this node audits nobody: %s", error)
            return None
    else:
        profile = load_profile(tolerances)
    return AuditWorker(files, profile, thread, device=device, memory_bytes=memory)


def clerk_for(
    store: EvidenceStore, judge: Judge | None, *, node_id: bytes, dtype: str, juror: Juror | None = None
) -> Clerk:
    """The clerk of a node that keeps its evidence in `store` and is paid as `node_id`."""
    show = functools.partial(exhibit, store, dtype=dtype)
    return Clerk(show, judge, node_id=node_id, juror=juror, over=store.decided)


async def attend(host: Host, coordinator: str, clerk: Clerk) -> None:
    """Until cancelled. A stream that ends is opened again: the coordinator may not know of this node yet."""
    pause_s = _PAUSE_S[0]
    while True:
        began = clerk.heard
        try:
            channel = Channel(await host.open_stream(coordinator, AUDIT_PROTOCOL), AUDIT)
            try:
                await clerk.talk(channel)
            finally:
                await channel.close()
        except* NetworkError as group:
            log.debug("audit stream: %s", group.exceptions[0])
        pause_s = _PAUSE_S[0] if clerk.heard > began else min(pause_s * 2, _PAUSE_S[1])
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
