"""What a testnet's market is like: where money is kept, what nodes ask, what the payer spends, and who cheats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from deserve_ledger.amounts import parse_amount
from deserve_ledger.errors import InvalidField
from deserve_ledger.prices import parse_prices
from deserve_testnet.errors import UsageError

__all__ = ["DECIMALS", "MarketConfig", "parse_cheats"]

DECIMALS = 18
"""Places of a testnet's token."""


@dataclass(frozen=True)
class MarketConfig:
    """Raises UsageError, naming the flag, for what cannot be."""

    ledger: Literal["evm"] = "evm"
    price: str = "0.25,1"
    """What every node asks per million layer-tokens of prompts and of drawn tokens, in whole tokens of money."""
    budget: str = "100"
    """What the payer puts into escrow for the run's batches, each."""
    cheats: dict[str, str] = field(default_factory=dict)
    """How a node misbehaves, by its name; see `deserve_node.audit.cheats`."""

    time_control: bool = False
    """Whether the chain's clock can be turned, for tests that wait for deadlines."""

    def __post_init__(self) -> None:
        try:
            parse_prices("--price", self.price, DECIMALS)
            parse_amount("--budget", self.budget, DECIMALS)
        except InvalidField as error:
            raise UsageError(str(error)) from error

    def check_nodes(self, nodes: int) -> None:
        """Raises UsageError where a cheat is none of them."""
        names = {f"node-{number}" for number in range(1, nodes + 1)}
        if unknown := sorted(self.cheats.keys() - names):
            raise UsageError(f"--cheat: {unknown[0]!r} is no node from node-1 to node-{nodes}")


def parse_cheats(given: Sequence[str]) -> dict[str, str]:
    """Of flags like "node2:skip-layer". Raises UsageError."""
    cheats: dict[str, str] = {}
    for text in given:
        match = re.fullmatch(r"node-?([1-9][0-9]*):([a-z0-9-]+)", text)
        if match is None:
            raise UsageError(f"--cheat: {text!r} is not NODE:KIND, like node2:skip-layer")
        if cheats.setdefault(f"node-{match[1]}", match[2]) != match[2]:
            raise UsageError(f"--cheat: node-{match[1]} is named twice")
    return cheats
