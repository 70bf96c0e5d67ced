"""The arithmetic of money. Pure, in whole numbers; nothing is rounded but where the last two functions say so.

A node asks a price per million layer-tokens, so what it earns is counted in *micros*, millionths of a base unit, and
what the payer is charged for it, margin included, in millionths of a micro. Both are kept exactly and only ever added
up; whole base units are the floor of the sum. The payer is thus never charged a unit that it does not owe in full, and
the sum of the nodes' floors never exceeds the payer's, so the margin takes what is left and nothing gets lost.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "PPM",
    "RowSize",
    "StageTerms",
    "charge_exact",
    "dearest_row",
    "earned_micros",
    "most_a_node_may_ask",
    "whole_charge",
    "whole_earning",
]

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class StageTerms:
    """One stage of a ring's epoch: whose it is, its layers [first, last), and what they cost while the ring serves.

    Prices are base units per million layer-tokens.
    """

    node_id: bytes
    first: int
    last: int
    prefill: int
    decode: int

    @property
    def layers(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class RowSize:
    """A request's tokens as the coordinator counts them before anything is computed."""

    prompt_tokens: int
    most_tokens: int
    """It may generate at most."""
    unseen_tokens: int
    """Of those, so many may leave no trace in its text: ends of sequence, cut stop strings."""


def earned_micros(terms: StageTerms, prompt_tokens: int, completion_tokens: int) -> int:
    """What one stage earns with these tokens, in micros."""
    return terms.layers * (prompt_tokens * terms.prefill + completion_tokens * terms.decode)


def charge_exact(micros: int, margin_ppm: int) -> int:
    """What the payer owes for so many micros of the nodes, in millionths of a micro."""
    return micros * (PPM + margin_ppm)


def most_a_node_may_ask(price: int, margin_ppm: int) -> int:
    """The highest reserve price with which the payer's `price` is kept once the margin is on top."""
    return price * PPM // (PPM + margin_ppm)


def dearest_row(size: RowSize, layers: int, prefill: int, decode: int, margin_ppm: int) -> int:
    """Base units that a row of this size costs its payer at most, at these prices of nodes. Rounded up."""
    whole = StageTerms(b"", 0, layers, prefill, decode)
    exact = charge_exact(earned_micros(whole, size.prompt_tokens, size.most_tokens), margin_ppm)
    return -(-exact // PPM**2)


def whole_charge(exact: int) -> int:
    """Base units of a sum of `charge_exact`: rounded down, in the payer's favour."""
    return exact // PPM**2


def whole_earning(micros: int) -> int:
    """Base units of a sum of `earned_micros`: rounded down; the fraction is earned once it is a whole."""
    return micros // PPM
