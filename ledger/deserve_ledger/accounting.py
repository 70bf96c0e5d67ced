"""Events of a ledger as lines for a bookkeeper: JSON objects, or CSV with the same columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any, TextIO

from deserve_ledger.amounts import format_amount
from deserve_ledger.records import Event

__all__ = ["COLUMNS", "concerns", "line_of", "writer"]

COLUMNS = ("position", "time_s", "event", "amount", "tokens", "fields")
Line = dict[str, Any]


def concerns(event: Event, account: bytes) -> bool:
    """Whether the 20-byte address `account` is a party of it."""
    return account in event.fields.values()


def line_of(event: Event, time_s: int | None, decimals: int) -> Line:
    """`amount` in base units and, the same, in `tokens`; all further fields of the event as they are, bytes in hex."""
    amount = event.fields.get("amount")
    return {
        "position": event.position,
        "time_s": time_s,
        "event": event.name,
        "amount": None if amount is None else str(amount),
        "tokens": format_amount(int(amount), decimals) if amount is not None else None,
        "fields": {name: _shown(value) for name, value in event.fields.items()},
    }


def writer(file: TextIO, kind: str) -> Callable[[Line], None]:
    """Writes lines of `kind` "jsonl" or "csv" to `file`."""
    if kind == "jsonl":
        return lambda line: print(json.dumps(line), file=file)
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    return lambda line: table.writerow({**line, "fields": json.dumps(line["fields"])}) and None


def _shown(value: int | bytes | bool) -> str | bool:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return value if isinstance(value, bool) else str(value)
