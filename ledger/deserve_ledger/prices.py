"""What work costs: prices per million layer-tokens, of prompts (prefill) and of drawn tokens (decode) apart.

A layer-token is one token through one decoder layer. Here is the only place where money is rounded: `Prices.of` rounds
down, and is applied to all units since the beginning, never to parts that are then added up. So a debt grows by what
was computed and nothing is lost or won by cutting the work into smaller pieces; less than one base unit waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from deserve_ledger.amounts import check_amount, format_amount, parse_amount
from deserve_ledger.errors import InvalidField

__all__ = ["UNITS_PER_PRICE", "Prices", "parse_prices"]

UNITS_PER_PRICE = 1_000_000
"""Layer-tokens that a price is for."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Base units per million layer-tokens. Raises `InvalidField` for one that is no amount."""

    prefill: int
    decode: int

    def __post_init__(self) -> None:
        check_amount("prefill", self.prefill)
        check_amount("decode", self.decode)

    def of(self, prefill_units: int, decode_units: int) -> int:
        """Base units for so many layer-tokens since the beginning. Raises `InvalidField` above 128 bits."""
        for field, units in (("prefill_units", prefill_units), ("decode_units", decode_units)):
            if units < 0:
                raise InvalidField(field, f"{units} is negative")
        exact = prefill_units * self.prefill + decode_units * self.decode
        return check_amount("amount", exact // UNITS_PER_PRICE)

    def within(self, most: Prices) -> bool:
        """Whether neither price is above that of `most`."""
        return self.prefill <= most.prefill and self.decode <= most.decode

    def show(self, decimals: int) -> str:
        return f"{format_amount(self.prefill, decimals)},{format_amount(self.decode, decimals)}"


def parse_prices(field: str, text: str, decimals: int) -> Prices:
    """ "0.2,1.5" as prefill and decode in whole tokens per million layer-tokens; one number means both.

    Raises `InvalidField` naming `field`.
    """
    parts = text.split(",")
    if len(parts) > 2:
        raise InvalidField(field, f"{text!r} is not PREFILL,DECODE")
    amounts = [parse_amount(field, part, decimals) for part in parts]
    return Prices(amounts[0], amounts[-1])
