"""A file of signed credits, one JSON object a line: what a node's operator keeps, and what anybody may redeem.

A credit pays its node's operator whoever hands it in, so the file is no secret; losing it is losing the money.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from deserve_ledger.amounts import check_address, check_amount, check_bytes32, check_uint64
from deserve_ledger.eip712 import SIGNATURE_BYTES
from deserve_ledger.errors import InvalidField
from deserve_ledger.messages import Credit

__all__ = ["SignedCredit", "read_credits", "write_credits"]

_LONGEST_LINE = 4096


@dataclass(frozen=True, slots=True)
class SignedCredit:
    credit: Credit
    signature: bytes


def write_credits(file: TextIO, credits: Iterable[SignedCredit]) -> None:
    for one in credits:
        fields = {
            "coordinator": f"0x{one.credit.coordinator.hex()}",
            "node_id": f"0x{one.credit.node_id.hex()}",
            # As text: some readers of JSON make floats of large numbers.
            "cumulative": str(one.credit.cumulative),
            "seq": one.credit.seq,
            "receipts_root": f"0x{one.credit.receipts_root.hex()}",
            "signature": f"0x{one.signature.hex()}",
        }
        file.write(json.dumps(fields) + "\n")


def read_credits(path: Path) -> list[SignedCredit]:
    """All credits in the file, signatures unchecked. Raises `InvalidField` naming file, line and field."""
    credits = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    credits.append(_credit(line, f"{path}:{number}"))
    except OSError as error:
        raise InvalidField(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidField(str(path), "not UTF-8") from error
    return credits


def _credit(line: str, where: str) -> SignedCredit:
    if len(line) > _LONGEST_LINE:
        raise InvalidField(where, f"longer than {_LONGEST_LINE} characters")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidField(where, f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidField(where, "no JSON object")
    try:
        credit = Credit(
            check_address("coordinator", _hex(fields, "coordinator")),
            check_bytes32("node_id", _hex(fields, "node_id")),
            check_amount("cumulative", _whole(fields, "cumulative")),
            check_uint64("seq", _whole(fields, "seq")),
            check_bytes32("receipts_root", _hex(fields, "receipts_root")),
        )
        signature = _hex(fields, "signature")
        if len(signature) != SIGNATURE_BYTES:
            raise InvalidField("signature", f"{len(signature)} bytes, not {SIGNATURE_BYTES}")
    except InvalidField as error:
        raise InvalidField(where, str(error)) from error
    return SignedCredit(credit, signature)


def _hex(fields: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(fields[name].removeprefix("0x"))
    except (KeyError, ValueError, AttributeError) as error:
        raise InvalidField(name, f"{fields.get(name)!r} is no hex") from error


def _whole(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 40:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidField(name, f"{value!r} is no whole number")
