"""What an operator of a coordinator decides about money."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.money.tariff import PPM

__all__ = ["MoneyPolicy", "parse_margin"]


@dataclass(frozen=True, slots=True)
class MoneyPolicy:
    margin_ppm: int = 50_000
    """On top of what nodes ask, in millionths: what the coordinator earns, and what it pays audits from."""
    exposure: int | None = None
    """Base units of a job that may be unpaid; None: a chunk's worth."""
    reserve_units: int = 10_000_000
    """Layer-tokens at a node's own price that are locked for it beyond what it is owed."""
    redeem_at_least: int | None = None
    """Base units of vouchers that are worth a transaction before the job's end; None: only then."""
    anchor_s: float = 10.0
    """Between two roots over receipts."""
    epoch_s: float = 86_400.0
    """Between two roots over credits."""
    deadline_margin_s: int = 3600
    """A job's escrow has to last for so long after its batch's window; vouchers are redeemed before that is over."""
    audited: bool = False
    """Nobody is paid for a row before `decide` was called for it."""


def parse_margin(text: str) -> int:
    """ "5%" or "0.05" in millionths. Raises `ConfigurationError`."""
    number, percent = (text[:-1], 100) if text.endswith("%") else (text, 1)
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    if not digits.isascii() or not digits.isdigit() or len(fraction) > 6 or len(digits) > 12:
        raise ConfigurationError(f"--price-margin {text}: expected a share like 5% or 0.05")
    parts: int = 10 ** len(fraction)
    ppm, rest = divmod(int(digits) * PPM, percent * parts)
    if rest or ppm > 10 * PPM:
        raise ConfigurationError(f"--price-margin {text}: must be in millionths, and at most 1000%")
    return ppm
