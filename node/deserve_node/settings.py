"""What an operator decides about a node, checked once. Flags win over `node.toml`, which wins over the defaults."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deserve_ledger.errors import InvalidField
from deserve_ledger.finality import Confirmations, parse_confirmations
from deserve_network.congestion import check_congestion
from deserve_network.errors import CongestionError
from deserve_node.errors import NodeError
from deserve_node.kv_limits import DEFAULT_PAGE_TOKENS, KvLimits
from deserve_node.timed.profile import ProfileError, RingProfile, load_profile
from deserve_plan.plan import PlanOverrides
from deserve_process.errors import AddressInvalid, SecretUnusable
from deserve_process.listen_address import parse_host_port
from deserve_process.secret_file import read_secret

__all__ = [
    "AMOUNTS",
    "LEAST_ROWS",
    "MOST_ROWS",
    "TESTNET_VARIABLE",
    "NodeSettings",
    "SettingsError",
    "load_settings",
    "parse_bytes",
    "read_join_token",
]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_MOST_BYTES = 2**60
TESTNET_VARIABLE = "DESERVE_TESTNET"
"""Set to "1" by a testnet for its nodes."""
LEAST_ROWS, MOST_ROWS = 16, 16_384
"""In flight, as head."""
AMOUNTS = {
    "memory": "memory_bytes",
    "kv_memory": "kv_memory_bytes",
    "host_memory": "host_memory_bytes",
    "copy_rate": "copy_bytes_per_s",
    "evidence_disk": "evidence_disk_bytes",
}
"""Keys of node.toml, and flags, whose values are amounts such as 2GiB (a second)."""


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
    tensor_port: int = 0
    """TCP port beside the listening one, where neighbours bring tensors; 0: a free one."""
    carrier: str = "auto"
    """What tensors travel on: "auto", TLS sockets where they can be had, or "libp2p"."""
    congestion: str = ""
    """Congestion control of this node's sockets, as the kernel calls it; empty: the system's."""
    memory_bytes: int = 0
    threads: int = 0
    device: str = "auto"
    http: str = "127.0.0.1:0"
    name: str = ""
    join_token_file: str = ""
    """Holds the token of a coordinator that asks for one; readable by its owner only."""
    model_paths: tuple[str, ...] = ()
    """ID=DIRECTORY pairs: where this machine keeps a model that the coordinator names by another path."""
    max_rows: int = 1024
    """Rows in flight at most, where this node is the head of a ring; how many there are is for the plan to say."""
    token_budget: int = 2048
    """Tokens of one step at most, where this node is the head of a ring: activations take memory. What bounds a step
    otherwise is the time that the plan gives it."""
    kv_memory_bytes: int = 0
    """Of KV on the device at most; 0: what the weights leave of `memory_bytes`."""
    host_memory_bytes: int = 0
    """Of KV in host memory, swapped in and out while others compute; 0: nothing is swapped."""
    copy_bytes_per_s: int = 0
    """Bounds copies between host memory and device, each way; 0: as fast as they go."""
    page_tokens: int = DEFAULT_PAGE_TOKENS
    plan: str = ""
    """Where this node is the head: what of the ring's plan is set by hand, see `deserve_plan.plan.PlanOverrides`."""
    operator: str = ""
    """Address of the account that is paid for this node's work; empty: it works for nothing."""
    deployment: str = ""
    """A file that says where the ledger is, see `deserve_ledger.deployment`."""
    ledger_rpc: str = ""
    """Where to reach it instead of where that file says."""
    confirmations: str = ""
    """Blocks on top of one that counts as final there, or "finalized"; empty: what is usual on that chain."""
    price_prefill: str = ""
    price_decode: str = ""
    """Whole tokens per million layer-tokens that this node asks at least, such as 0.25; empty: nothing."""
    unpaid_chunks: int = 1
    """Chunks that may be done and unpaid before this node stops."""
    passphrase_file: str = ""
    """Of the receipt key; readable by its owner only."""
    operator_keystore: str = ""
    """Of the operator's account, to vote on panels; empty: this node stays away from them."""
    operator_passphrase_file: str = ""
    evidence_disk_bytes: int = 20 << 30
    """Of what came to this node and may still be asked for in an audit, where work is paid."""
    tolerances: str = ""
    """A file of `deserve ledger calibrate`, to audit others by; empty: what comes with the program."""
    stage_profile: str = ""
    """A TOML file: steps take its times and nothing is computed, see `deserve_node.timed`."""
    cheat: str = ""
    """How stages misbehave, see `deserve_node.audit.cheats`; only in a testnet, which says so in `DESERVE_TESTNET`."""

    @property
    def kv_limits(self) -> KvLimits:
        return KvLimits(
            self.page_tokens,
            device_bytes=self.kv_memory_bytes,
            host_bytes=self.host_memory_bytes,
            copy_bytes_per_s=self.copy_bytes_per_s,
        )

    @property
    def overrides(self) -> PlanOverrides:
        """What `plan` says. Raises `SettingsError`."""
        try:
            return PlanOverrides.parse(self.plan)
        except ValueError as error:
            raise SettingsError(f"plan: {error}") from error

    @property
    def finality(self) -> Confirmations | None:
        """What `confirmations` says. Raises `SettingsError`."""
        try:
            return parse_confirmations("confirmations", self.confirmations) if self.confirmations else None
        except InvalidField as error:
            raise SettingsError(str(error)) from error

    @property
    def profile(self) -> RingProfile | None:
        """What `stage_profile` says. Raises `SettingsError`."""
        try:
            return load_profile(Path(self.stage_profile)) if self.stage_profile else None
        except ProfileError as error:
            raise SettingsError(f"stage_profile: {error}") from error


def parse_bytes(text: str, name: str) -> int:
    """ "2GiB", "800 MB" or "1048576" as bytes. Raises `SettingsError` naming `name`."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in _UNITS:
        raise SettingsError(f"{name}: {text!r} is no amount of memory, write for example 2GiB")
    amount = int(float(match[1]) * _UNITS[match[2]])
    if not 1 <= amount <= _MOST_BYTES:
        raise SettingsError(f"{name}: {text!r} is not from 1 byte to {_MOST_BYTES >> 40} TiB")
    return amount


def read_join_token(path: str) -> str:
    """The token in a file of one line, "" for no file. Raises `SettingsError`."""
    if not path:
        return ""
    try:
        return read_secret(Path(path))
    except SecretUnusable as error:
        raise SettingsError(f"join_token_file: {error}") from error


def load_settings(data: Path, flags: dict[str, Any]) -> NodeSettings:
    """Settings from `data`/node.toml under `flags` (None: not given). Raises `SettingsError`."""
    file = data / "node.toml"
    values = _from_file(file)
    values.update({key: value for key, value in flags.items() if value is not None})
    if not values.get("coordinator"):
        raise SettingsError(f"coordinator: none given; pass --coordinator or set it in {file}")
    settings = NodeSettings(data=data, **{"name": socket.gethostname()[:64], **values})
    _check(settings)
    return settings


def _from_file(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    for key, setting in AMOUNTS.items():
        if key in values:
            values[setting] = parse_bytes(str(values.pop(key)), f"{file}: {key}")
    if isinstance(found := values.get("model_paths"), list) and all(type(path) is str for path in found):
        values["model_paths"] = tuple(found)
    paths = ("join_token_file", "stage_profile", "deployment", "passphrase_file", "tolerances")
    for key in (*paths, "operator_keystore", "operator_passphrase_file"):
        if isinstance(name := values.get(key), str) and name:
            values[key] = str(file.parent / Path(name).expanduser())
    known = {f.name: f for f in fields(NodeSettings)}
    for key, value in values.items():
        if key not in known or key == "data":
            raise SettingsError(f"{file}: unknown setting {key!r}")
        if type(value) is not (str if key == "coordinator" else type(known[key].default)):
            raise SettingsError(f"{file}: {key} has the wrong type ({type(value).__name__})")
    return values


def _check_cheat(cheat: str) -> None:
    # Imported only here: it brings torch.
    from deserve_node.audit.cheats import CHEATS

    if os.environ.get(TESTNET_VARIABLE) != "1":
        raise SettingsError("cheat: nodes cheat in testnets only")
    if cheat not in CHEATS:
        raise SettingsError(f"cheat: {cheat!r} is not one of {', '.join(CHEATS)}")


def _check(settings: NodeSettings) -> None:
    for key, least, most in (
        ("memory_bytes", 0, _MOST_BYTES),
        ("kv_memory_bytes", 0, _MOST_BYTES),
        ("host_memory_bytes", 0, _MOST_BYTES),
        ("copy_bytes_per_s", 0, _MOST_BYTES),
        ("evidence_disk_bytes", 1, _MOST_BYTES),
        ("page_tokens", 1, 1024),
        ("threads", 0, 4096),
        ("tensor_port", 0, 65535),
        ("max_rows", LEAST_ROWS, MOST_ROWS),
        ("token_budget", 16, 16384),
        ("unpaid_chunks", 1, 1_000_000),
    ):
        if not least <= getattr(settings, key) <= most:
            raise SettingsError(f"{key}: must be from {least} to {most}")
    for key, shortest, longest in (("name", 1, 64), ("announce", 0, 512)):
        if not shortest <= len(getattr(settings, key)) <= longest:
            raise SettingsError(f"{key}: must have {shortest} to {longest} characters")
    if not settings.name.isprintable():
        raise SettingsError("name: must be printable")
    if settings.device not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]+", settings.device):
        raise SettingsError(f"device: {settings.device!r} is not auto, cpu, cuda or cuda:N")
    if settings.carrier not in ("auto", "libp2p"):
        raise SettingsError(f"carrier: {settings.carrier!r} is not auto or libp2p")
    try:
        check_congestion(settings.congestion)
    except CongestionError as error:
        raise SettingsError(f"congestion: {error}") from error
    if not re.fullmatch(r"/.+/p2p/[^/]+", settings.coordinator):
        raise SettingsError(f"coordinator: {settings.coordinator!r} is no multiaddress that ends in /p2p/<peer id>")
    if not settings.listen.startswith("/"):
        raise SettingsError(f"listen: {settings.listen!r} is no multiaddress")
    if settings.announce and (not settings.announce.startswith("/") or "/p2p/" in settings.announce):
        raise SettingsError(f"announce: {settings.announce!r} is no multiaddress without /p2p/")
    for pair in settings.model_paths:
        if not all(pair.partition("=")):
            raise SettingsError(f"model_paths: {pair!r} is not ID=DIRECTORY")
    try:
        parse_host_port(settings.http)
    except AddressInvalid as error:
        raise SettingsError(f"http: {error}") from error
    if settings.cheat:
        _check_cheat(settings.cheat)
    _check_pay(settings)
    read_join_token(settings.join_token_file)
    _ = settings.profile, settings.overrides


def _check_pay(settings: NodeSettings) -> None:
    if settings.operator:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", settings.operator):
            raise SettingsError(f"operator: {settings.operator!r} is no address like 0x5aAe…")
        if not settings.deployment:
            raise SettingsError("deployment: missing; an operator is paid on a ledger, and this file says where it is")
        if settings.operator_keystore and not settings.operator_passphrase_file:
            raise SettingsError("operator_passphrase_file: missing; nobody is asked for the passphrase of the operator")
        _ = settings.finality
        return
    prices = ("price_prefill", "price_decode")
    for key in ("deployment", "ledger_rpc", "confirmations", *prices, "passphrase_file", "operator_keystore"):
        if getattr(settings, key):
            raise SettingsError(f"{key}: has no meaning without operator")
