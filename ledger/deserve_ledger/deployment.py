"""Where a ledger is: what whoever made it hands to everybody who uses it, as a small JSON file without secrets.

On chain 0, which no chain is, `url` is that of an embedded journal and `owner` its owner; on every other it is an
Ethereum RPC endpoint. The file is trusted: an address in it is where money goes.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deserve_ledger.amounts import check_address, check_uint64
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import InvalidField

__all__ = ["EMBEDDED_CHAIN_ID", "Deployment", "read_deployment", "write_deployment"]

EMBEDDED_CHAIN_ID = 0
_LARGEST_FILE = 1 << 14


@dataclass(frozen=True, slots=True)
class Deployment:
    url: str
    chain_id: int
    contract: bytes
    """Address, 20 bytes."""
    token: bytes = bytes(20)
    """Of the ERC-20; zeros where the ledger is embedded and its tokens are nothing else."""
    decimals: int = 18
    """Places of the token: how amounts are shown and typed."""
    block: int = 0
    """In which the contract was made: no event is older."""
    owner: bytes = bytes(20)
    """Of an embedded journal."""

    def __post_init__(self) -> None:
        for field in ("contract", "token", "owner"):
            check_address(field, getattr(self, field))
        for field in ("chain_id", "block", "decimals"):
            check_uint64(field, getattr(self, field))
        if self.decimals > 36:
            raise InvalidField("decimals", f"{self.decimals} is above 36")
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise InvalidField("url", f"{self.url!r} is no http address")

    @property
    def domain(self) -> Domain:
        return Domain(self.chain_id, self.contract)

    @property
    def embedded(self) -> bool:
        return self.chain_id == EMBEDDED_CHAIN_ID


def read_deployment(file: Path) -> Deployment:
    """Raises `InvalidField` naming the file, and what is wrong in it."""
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_LARGEST_FILE))
        if not isinstance(content, dict):
            raise InvalidField("content", "no JSON object")
        if unknown := set(content) - set(Deployment.__dataclass_fields__):
            raise InvalidField(min(unknown), "unknown key")
        return Deployment(**{key: _read_field(key, value) for key, value in content.items()})
    except OSError as error:
        raise InvalidField(str(file), error.strerror or str(error)) from error
    except (ValueError, TypeError, RecursionError, InvalidField) as error:
        raise InvalidField(str(file), str(error)) from error


def _read_field(key: str, value: Any) -> Any:
    if key not in ("contract", "token", "owner"):
        return value
    if not isinstance(value, str) or not value.startswith("0x"):
        raise InvalidField(key, f"{value!r} is no address in hex")
    return bytes.fromhex(value[2:])


def write_deployment(file: Path, deployment: Deployment) -> None:
    """Whole or not at all. Raises `OSError`."""
    content = {
        name: f"0x{value.hex()}" if isinstance(value := getattr(deployment, name), bytes) else value
        for name in Deployment.__dataclass_fields__
    }
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with draft.open("w") as stream:
        stream.write(json.dumps(content, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
