"""The contract of the ledger in Solidity, and what its compiler made of it.

The artifacts are committed, so nobody needs a compiler to use the ledger; `compiler` makes them anew, and a test
compares.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = ["Artifact", "load_artifact"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract: its ABI as JSON, and the bytes that create it, without constructor arguments."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    compiler: str
    """Version of solc."""
    settings: dict[str, Any]
    sources: str
    """SHA-256 in hex of the contract's own sources, see `compiler.hash_sources`."""


@functools.cache
def load_artifact(name: str) -> Artifact:
    """`DeserveLedger` or `TestToken`. Raises `FileNotFoundError` for any other."""
    text = resources.files(__name__).joinpath("artifacts", f"{name}.json").read_text()
    return parse_artifact(json.loads(text))


def parse_artifact(fields: dict[str, Any]) -> Artifact:
    """From the JSON object in a file."""
    return Artifact(**{**fields, "bytecode": bytes.fromhex(fields["bytecode"])})
