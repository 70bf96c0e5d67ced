"""Who has what at the end of a testnet's run: a line an account, sums that must come out even, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deserve_ledger.amounts import format_amount
from deserve_ledger.books import Account, Books
from deserve_testnet.market.parties import Parties

__all__ = ["BalanceTable", "Line", "balance_table"]

_COLUMNS = ("escrowed", "drawn", "paid", "refunded", "staked", "slashed", "rewarded", "balance")


@dataclass(frozen=True, slots=True)
class Line:
    """Of one account, in base units; see `deserve_ledger.books.Account`."""

    party: str
    address: str
    account: Account


@dataclass(frozen=True, slots=True)
class BalanceTable:
    lines: tuple[Line, ...]
    burnt: int
    decimals: int
    put_out: Mapping[str, str] = field(default_factory=dict)
    """Nodes that an audit has put out, and why."""

    def as_json(self) -> dict[str, Any]:
        return {
            "burnt": str(self.burnt),
            "decimals": self.decimals,
            "put_out": dict(self.put_out),
            "accounts": [
                {"party": line.party, "address": line.address}
                | {name: str(amount) for name, amount in asdict(line.account).items()}
                for line in self.lines
            ],
        }

    def as_text(self) -> str:
        """Whole tokens; figures that are zero everywhere have no column."""
        columns = [name for name in _COLUMNS if any(getattr(line.account, name) for line in self.lines)]
        rows = [["account", *columns]]
        for line in self.lines:
            rows.append([line.party, *(self._shown(getattr(line.account, name)) for name in columns)])
        rows.append(["all", *(self._shown(sum(getattr(one.account, name) for one in self.lines)) for name in columns)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        text = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        out = [f"put out  {name}: {reason}" for name, reason in self.put_out.items()]
        return "\n".join([*text, f"burnt  {self._shown(self.burnt)}", *out])

    def _shown(self, amount: int) -> str:
        return format_amount(amount, self.decimals) if amount >= 0 else f"-{format_amount(-amount, self.decimals)}"


def balance_table(books: Books, parties: Parties, decimals: int) -> BalanceTable:
    """Accounts that a testnet made first, in their order, then any other that the ledger knows."""
    named: Mapping[bytes, str] = {party.key.address: party.name for party in parties}
    addresses = [*named, *(address for address in books.accounts if address not in named)]
    lines = (Line(named.get(one, "another"), f"0x{one.hex()}", books.accounts[one]) for one in addresses)
    return BalanceTable(tuple(lines), books.burnt, decimals)
