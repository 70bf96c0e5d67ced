"""When a block of a chain counts as final: what is usual, and what people say instead."""

from __future__ import annotations

from typing import Literal

from deserve_ledger.errors import InvalidField

__all__ = ["DEVELOPMENT_CHAINS", "Confirmations", "parse_confirmations", "usual_confirmations"]

DEVELOPMENT_CHAINS = (1337, 31337)
_MOST = 10_000

Confirmations = int | Literal["finalized"]
"""Blocks on top of one that will stay, or the chain's own word for it."""


def usual_confirmations(chain_id: int) -> Confirmations:
    """None on chains for development, which nobody else extends; a dozen elsewhere."""
    return 0 if chain_id in DEVELOPMENT_CHAINS else 12


def parse_confirmations(field: str, text: str) -> Confirmations:
    """ "12", "finalized". Raises `InvalidField` naming `field`."""
    if text == "finalized":
        return "finalized"
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST)) and int(text) <= _MOST:
        return int(text)
    raise InvalidField(field, f"{text!r} is not finalized, or a number of blocks from 0 to {_MOST}")
