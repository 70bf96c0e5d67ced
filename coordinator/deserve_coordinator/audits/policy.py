"""How much is audited and how long each step of an audit may take. Fixed while the coordinator runs."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_coordinator.errors import ConfigurationError

__all__ = ["AUDIT_MODES", "AuditPolicy"]

AUDIT_MODES = ("require", "when-possible", "off")


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """Rates in millionths, times in seconds. Raises `ConfigurationError`."""

    mode: str = "when-possible"
    """require: a drawn audit waits for an auditor as long as its batch may take; when-possible: `unaudited_s`."""
    newcomer_ppm: int = 150_000
    proven_ppm: int = 20_000
    proven_after: int = 100
    """Audits in a row that a node passes before it is proven: of one that cheats in 5 % of its rows, 1 in 170 is."""
    canary_ppm: int = 100_000
    """Tasks with a known answer for each real one, at most: what auditors cost grows by as much."""
    asks: int = 3
    ask_s: float = 30.0
    replay_s: float = 600.0
    receipts_s: float = 60.0
    """After a row was delivered, how long its stages may take to commit to it."""
    unaudited_s: float = 300.0
    evidence_bytes: int = 1 << 30
    """Of one row's evidence."""

    def __post_init__(self) -> None:
        if self.mode not in AUDIT_MODES:
            raise ConfigurationError(f"--audit {self.mode}: expected one of {', '.join(AUDIT_MODES)}")
        for name in ("newcomer_ppm", "proven_ppm", "canary_ppm"):
            if not 0 <= getattr(self, name) <= 1_000_000:
                raise ConfigurationError(f"{name}: {getattr(self, name)} is not from 0 to 1000000")
        for name in ("asks", "ask_s", "replay_s", "receipts_s", "unaudited_s", "evidence_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name}: must be positive")
