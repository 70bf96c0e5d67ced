"""What the nodes of a running testnet say of themselves (/status), stage by stage, and what they cost the machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deserve_testnet.testnet import Testnet

__all__ = ["NotSteady", "RingStatus", "cpu_s", "ring_status"]

_LOOK_S = 0.002
_POLL_S = 0.25
_PATIENCE = 4
_GROUP, _USER, _SYSTEM = 2, 11, 12
"""Fields of /proc/PID/stat after the name, counted from 0 (proc(5))."""

Json = dict[str, Any]


class NotSteady(Exception):
    """The ring did not fill in time, changed while it was measured, ran out of rows, or rows failed."""


class RingStatus:
    """Reads the nodes of one ring, in the order of its stages."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session = session
        self._urls = urls

    async def all(self) -> list[Json]:
        return list(await asyncio.gather(*(self.stage(stage) for stage in range(len(self._urls)))))

    async def stage(self, stage: int) -> Json:
        async with self._session.get(self._urls[stage]) as response:
            found: Json = await response.json()
            return found

    async def edge(self) -> Json:
        """The head's status right after the next step of the ring has brought its tokens."""
        before = (await self.stage(0))["completion_tokens"]
        return await self.until(lambda head: head["completion_tokens"] != before)

    async def until(self, true_of: Callable[[Json], bool], deadline_s: float = 120.0) -> Json:
        """The first status of the head of which something is true, looked at every few milliseconds."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            head = await self.stage(0)
            if true_of(head):
                return head
            await asyncio.sleep(_LOOK_S)
        raise NotSteady(f"the head stayed as it was for {deadline_s:.0f} s")

    async def until_full(self, before: Json, rows: int, prompt_tokens: int, deadline_s: float) -> None:
        """Wait until `rows` rows, or as many as the ring's plan runs at once, have their prompts of `prompt_tokens`
        computed since `before`, and every row had a token after that."""
        full_at: int | None = None
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            head = await self.stage(0)
            generated = head["completion_tokens"] - before["completion_tokens"]
            # What the head computed is prompts and decodes; each token but a row's first was a decode before.
            computed = head["tokens"] - before["tokens"] - generated + head["rows_active"]
            plan = head.get("plan") or {}
            running = plan.get("microbatches", rows) * plan.get("rows_per_microbatch", 1)
            if full_at is None and computed >= min(rows, running) * prompt_tokens:
                full_at = generated
            if full_at is not None and generated >= full_at + head["rows_active"]:
                return
            await asyncio.sleep(_POLL_S)
        raise NotSteady(f"the ring was not full after {deadline_s:.0f} s")

    async def until_settled(self, quiet_s: float, deadline_s: float) -> None:
        """Wait until the head has kept to one plan for `quiet_s`, as at first it knows nothing of the rows to come, and
        has seen the planned steady state; or has not, in four times as long. With 0 it does not wait for that state."""
        deadline = time.monotonic() + deadline_s
        plans, since = -1, time.monotonic()
        while time.monotonic() < deadline:
            plan = (await self.stage(0)).get("plan") or {}
            quiet = time.monotonic() - since
            if plan.get("plans", 0) != plans:
                plans, since = plan.get("plans", 0), time.monotonic()
            elif quiet >= quiet_s and (plan.get("steady_s") or quiet >= _PATIENCE * quiet_s):
                return
            await asyncio.sleep(_POLL_S)
        raise NotSteady(f"the head still made new plans after {deadline_s:.0f} s")

    async def until_empty(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while (await self.stage(0))["rows_active"]:
            if time.monotonic() > deadline:
                raise NotSteady(f"rows that were cancelled are still there after {deadline_s:.0f} s")
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def ring_status(net: Testnet) -> AsyncIterator[RingStatus]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        urls = [f"{node.ready['http']}/status" for node in net.nodes]
        found = await RingStatus(session, urls).all()
        order = sorted(range(len(urls)), key=lambda index: found[index]["stage"])
        yield RingStatus(session, [urls[index] for index in order])


def cpu_s(net: Testnet) -> float:
    """Processor seconds so far of the testnet's processes and their children."""
    processes = [net.coordinator, *net.nodes, *([] if net.internet is None else [net.internet.process])]
    groups = {process.pid for process in processes}
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name may hold anything, spaces too; it ends with the last parenthesis.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[_GROUP]) in groups:
            ticks += int(fields[_USER]) + int(fields[_SYSTEM])
    return ticks / os.sysconf("SC_CLK_TCK")
