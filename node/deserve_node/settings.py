"""What an operator decides about a node, checked once. Flags win over `node.toml`, which wins over the defaults."""

from __future__ import annotations

import re
import socket
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deserve_node.errors import NodeError

__all__ = ["NodeSettings", "SettingsError", "load_settings", "parse_bytes", "parse_host_port"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class SettingsError(NodeError):
    """A setting that cannot be used; the text names it."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`memory_bytes` is lent for weights and KV together, 0: half of the device's. `threads` 0: as torch has it."""

    data: Path
    coordinator: str
    listen: str = "/ip4/0.0.0.0/tcp/0"
    announce: str = ""
    """A multiaddress (without /p2p/) to tell others instead of the listening ones: port forwarding, a public name."""
    memory_bytes: int = 0
    threads: int = 0
    device: str = "auto"
    http: str = "127.0.0.1:0"
    name: str = ""
    join_token: str = ""
    model_paths: tuple[str, ...] = ()
    """ID=DIRECTORY pairs: where this machine keeps a model that the coordinator names by another path."""
    max_rows: int = 256
    """Rows in flight, where this node is the head of a ring."""
    token_budget: int = 256
    """Tokens of one step, where this node is the head of a ring."""


def parse_bytes(text: str, name: str) -> int:
    """ "2GiB", "800 MB" or "1048576" as bytes. Raises `SettingsError` naming `name`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in _UNITS:
        raise SettingsError(f"{name}: {text!r} is no amount of memory, write for example 2GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_host_port(text: str, name: str) -> tuple[str, int]:
    """ "127.0.0.1:8080" or "[::1]:8080". Raises `SettingsError` naming `name`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{name}: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def load_settings(data: Path, flags: dict[str, Any]) -> NodeSettings:
    """Settings from `data`/node.toml under `flags` (None: not given). Raises `SettingsError`."""
    file = data / "node.toml"
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: {error}") from error
        if "memory" in values:
            values["memory_bytes"] = parse_bytes(str(values.pop("memory")), f"{file}: memory")
        if "model_paths" in values:
            values["model_paths"] = tuple(values["model_paths"])
    known = {f.name: f for f in fields(NodeSettings)}
    for key, value in values.items():
        if key not in known or key == "data":
            raise SettingsError(f"{file}: unknown setting {key!r}")
        default = known[key].default
        if type(value) is not (str if key == "coordinator" else type(default)):
            raise SettingsError(f"{file}: {key} has the wrong type ({type(value).__name__})")
    values.update({key: value for key, value in flags.items() if value is not None})
    if not values.get("coordinator"):
        raise SettingsError(f"coordinator: none given; pass --coordinator or set it in {file}")
    settings = NodeSettings(data=data, **{"name": socket.gethostname()[:64], **values})
    for key in ("memory_bytes", "threads"):
        if getattr(settings, key) < 0:
            raise SettingsError(f"{key}: may not be negative")
    for key, most in (("max_rows", 4096), ("token_budget", 4096)):
        if not 16 <= getattr(settings, key) <= most:
            raise SettingsError(f"{key}: must be from 16 to {most}")
    if settings.device not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:\d+", settings.device):
        raise SettingsError(f"device: {settings.device!r} is not auto, cpu, cuda or cuda:N")
    if not 1 <= len(settings.name) <= 64:
        raise SettingsError("name: must have 1 to 64 characters")
    parse_host_port(settings.http, "http")
    return settings
