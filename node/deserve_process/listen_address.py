"""HOST:PORT, as operators write where a process shall listen for HTTP and as we show where it does."""

from __future__ import annotations

import re

from deserve_process.errors import AddressInvalid

__all__ = ["parse_host_port", "show_host_port"]


def parse_host_port(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080" or "[::1]:8080" as host and port; port 0 asks for a free one. Raises `AddressInvalid`."""
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise AddressInvalid(f"{text!r} is not HOST:PORT")
    return match[1].strip("[]"), int(match[2])


def show_host_port(host: str, port: int) -> str:
    """The inverse of `parse_host_port`: an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
