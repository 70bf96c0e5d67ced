"""Which congestion control a TCP socket uses: the kernel's choice, or the one an operator names.

A stage sends bursts with pauses between them over long paths, where the algorithm matters more than anything above it.
At 100 ms round trip and 0.3 % loss reno's rate collapses and bbr keeps 12 to 21 MB/s; without loss, a message of 1 MB
after a pause takes 120 ms with reno and 213 ms with bbr, which paces it anew. bbr learns how fast a line is from what
it is given, which is a frame at a time: a ring of four stages over hops of 512 ms keeps 99 % of its speed with cubic
and 72 % with bbr.
"""

from __future__ import annotations

import socket
from pathlib import Path

from deserve_network.errors import CongestionError

__all__ = ["MOST_NAME", "check_congestion", "set_congestion"]

MOST_NAME = 15
"""Characters of a name: TCP_CA_NAME_MAX of Linux, less its end."""

_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def check_congestion(name: str) -> None:
    """Raise `CongestionError` where this process cannot use `name`; empty is the system's default."""
    if not name:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        set_congestion(probe, name)


def set_congestion(tcp: socket.socket, name: str) -> None:
    """Use `name` on a socket; on one that listens, for what it accepts. Raises `CongestionError`."""
    if not name:
        return
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        raise CongestionError(f"{name!r} cannot be chosen on this system, only on Linux")
    try:
        tcp.setsockopt(socket.IPPROTO_TCP, option, name.encode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CongestionError(f"{name!r} cannot be used here ({reason}); the kernel has {_available()}") from error


def _available() -> str:
    try:
        return ", ".join(_AVAILABLE.read_text().split())
    except OSError:
        return "no list of them"
