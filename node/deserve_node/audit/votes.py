"""Votes of this node's operator, on disk before the ledger hears of them: without its salt no vote can be opened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from eth_hash.auto import keccak

__all__ = ["Vote", "Votes"]


@dataclass(frozen=True, slots=True)
class Vote:
    challenge: int
    guilty: bool
    salt: bytes

    def commitment(self, node_id: bytes) -> bytes:
        """As the contract computes it: keccak256(abi.encode(challenge, node, guilty, salt))."""
        words = (self.challenge.to_bytes(32, "big"), node_id, int(self.guilty).to_bytes(32, "big"), self.salt)
        return keccak(b"".join(words))


class Votes:
    """Below `directory`, a file for each challenge until it is resolved."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, vote: Vote) -> Vote:
        """What was kept for the challenge: this vote, or the first one."""
        path = self._path(vote.challenge)
        if path.exists():
            return self._read(path)
        partial = path.with_suffix(".new")
        with partial.open("w") as file:
            json.dump({"guilty": vote.guilty, "salt": vote.salt.hex()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        return vote

    def open(self) -> list[Vote]:
        return [self._read(path) for path in sorted(self._directory.glob("*.json"))]

    def drop(self, challenge: int) -> None:
        self._path(challenge).unlink(missing_ok=True)

    def _path(self, challenge: int) -> Path:
        return self._directory / f"{challenge}.json"

    def _read(self, path: Path) -> Vote:
        read = json.loads(path.read_text())
        return Vote(int(path.stem), bool(read["guilty"]), bytes.fromhex(read["salt"]))
