"""What one coordinator is told at its start; the commands fill it in, nothing else reads flags or files for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.money.opening import LedgerConfig
from deserve_network.ring_messages import MAX_CONTEXT
from deserve_process.errors import AddressInvalid
from deserve_process.listen_address import parse_host_port

__all__ = ["CoordinatorConfig", "parse_ring_size"]

DTYPES = ("float32", "bfloat16")


def parse_ring_size(text: str) -> int | None:
    """A number of nodes, or None for "auto". Raises `ConfigurationError`."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 256:
        raise ConfigurationError(f"--ring-size {text}: expected auto or a number from 1 to 256")
    return int(text)


@dataclass(frozen=True)
class CoordinatorConfig:
    model: str
    data: Path
    dtype: str = "float32"
    http: str = "127.0.0.1:8700"
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    ring_size: int | None = None
    links: LinkShapes = field(default_factory=LinkShapes)
    seed: int | None = None
    """For rows that name none: None derives theirs from the batch id, a number makes equal files give equal tokens."""
    max_upload_bytes: int = 200 << 20
    kv_tokens: int | None = None
    """Tokens of KV planned for on each layer; None: the model's context, 4,096 at most."""
    context_tokens: int = 0
    """Longest row, where the nodes' stages are timed; 0: the model's context."""
    api_key_file: Path | None = None
    join_token_file: Path | None = None
    lease_s: float = 300.0
    settle_s: float = 5.0
    stats_interval_s: float = 1.0
    ledger: LedgerConfig | None = None
    """None: nothing is paid."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigurationError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}")
        if self.max_upload_bytes < 1:
            raise ConfigurationError("--max-upload-mib: must be at least 1")
        if not 0 <= self.context_tokens <= MAX_CONTEXT:
            raise ConfigurationError(f"--context-tokens: must be from 0 to {MAX_CONTEXT}")
        for name in ("latency_ms", "jitter_ms", "mbit"):
            if getattr(self.links.default, name) < 0:
                raise ConfigurationError(f"--link-{name.replace('_', '-')}: must not be negative")
        try:
            parse_host_port(self.http)
        except AddressInvalid as error:
            raise ConfigurationError(f"--http: {error}") from error
