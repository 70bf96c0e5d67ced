"""The emulated internet as its user sees it: start it, run commands inside a member, stop it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from deserve_testnet.errors import Unavailable, UsageError
from deserve_testnet.processes import Process, Processes
from deserve_testnet.wan.differences import Differences
from deserve_testnet.wan.star import MAX_MEMBERS

__all__ = ["Internet", "why_unavailable"]

_START_DEADLINE_S = 60.0


def why_unavailable() -> str | None:
    """What this machine or user lacks for network namespaces, or None if nothing."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root (network namespaces and TUN devices)"
    if not Path("/dev/net/tun").exists():
        return "it needs /dev/net/tun (in a container: --device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN)"
    if shutil.which("ip") is None:
        return "it needs the command `ip` (Debian package iproute2)"
    return None


@dataclass(frozen=True)
class Internet:
    """A running emulator; `namespaces[i]` and `addresses[i]` belong to member i."""

    process: Process
    namespaces: tuple[str, ...]
    addresses: tuple[str, ...]

    @classmethod
    async def start(
        cls,
        processes: Processes,
        members: int,
        *,
        latency_ms: float,
        jitter_ms: float,
        mbit: float,
        seed: int,
        different: Differences | None = None,
    ) -> Self:
        """Bring up `members` namespaces. Raises Unavailable where the machine or the user cannot, UsageError."""
        if reason := why_unavailable():
            raise Unavailable(f"--wan netns is not possible here: {reason}; use --wan inline")
        if members > MAX_MEMBERS:
            raise UsageError(f"--wan netns carries at most {MAX_MEMBERS} members, not {members}")
        different = different or Differences()
        if strangers := [one for one in {*different.access, *itertools.chain(*different.delays)} if one >= members]:
            raise UsageError(f"--links: there is no node-{min(strangers)}")
        options = {
            "members": members,
            "latency_ms": latency_ms,
            "jitter_ms": jitter_ms,
            "mbit": mbit,
            "seed": seed,
            "access": {member: asdict(own) for member, own in different.access.items()},
            "delays": [(source, target, asdict(own)) for (source, target), own in different.delays.items()],
        }
        process = await processes.spawn(
            "internet", [sys.executable, "-m", "deserve_testnet.wan.emulator", json.dumps(options)]
        )
        ready = await process.first_line(_START_DEADLINE_S)
        if "error" in ready:
            raise Unavailable(ready["error"])
        return cls(process, tuple(ready["namespaces"]), tuple(ready["addresses"]))

    def inside(self, member: int) -> list[str]:
        """The words to put before a command so that it runs in a member's namespace."""
        return ["ip", "netns", "exec", self.namespaces[member]]
