"""HOST:PORT, as operators write where a process shall listen for HTTP and as we show where it does."""

from __future__ import annotations

import re
import socket

from deserve_process.errors import AddressInvalid

__all__ = ["parse_host_port", "reachable_host", "show_host_port"]

_ELSEWHERE = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}
"""By wildcard, an address that is on no machine (RFC 5737, RFC 3849)."""


def parse_host_port(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080" or "[::1]:8080" as host and port; port 0 asks for a free one. Raises `AddressInvalid`."""
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise AddressInvalid(f"{text!r} is not HOST:PORT")
    return match[1].strip("[]"), int(match[2])


def show_host_port(host: str, port: int) -> str:
    """The inverse of `parse_host_port`: an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(host: str) -> str:
    """What to tell others for the `host` that we listen on: for a wildcard this machine's address, else its name.

    The address is that of the route to other networks. Behind a NAT or with several networks it may be the wrong one.
    """
    if host not in _ELSEWHERE:
        return host
    family, elsewhere = _ELSEWHERE[host]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket chooses the route and sends nothing.
            probe.connect((elsewhere, 9))
        except OSError:
            return socket.gethostname()
        address: str = probe.getsockname()[0]
        return address
