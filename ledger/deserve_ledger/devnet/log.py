"""What makes a development chain outlive its process: a log of its blocks, one JSON object a line, fsynced each.

The first line tells how the chain began, each further one what a block was made of and the hash that must come out
again. A line that was cut off by a crash was never answered to anybody, so it is dropped. A block at a height that is
there already replaces that one and all above it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deserve_ledger.devnet.chain import Block, Chain, Unminable
from deserve_ledger.errors import DevnetUnusable

__all__ = ["BlockLog", "held_folder"]

_FORMAT = 1
_LOG = "blocks.jsonl"


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it until the end of the context or of the process. Raises `DevnetUnusable`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DevnetUnusable(f"data: {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevnetUnusable(f"data: another development chain runs on {folder}") from None
        yield
    finally:
        os.close(descriptor)


class BlockLog:
    """Open `folder` with `BlockLog.open`, which gives the chain as it was."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, folder: Path, chain_id: int, now_s: int) -> tuple[BlockLog, Chain]:
        """The log in `folder` and its chain; a new one begins at `now_s`. Raises `DevnetUnusable`."""
        path = folder / _LOG
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        log = cls(descriptor)
        try:
            whole, end, torn = path.read_bytes().rpartition(b"\n")
            if torn:
                os.ftruncate(descriptor, len(whole) + len(end))
            lines = whole.splitlines()
            if not lines:
                log._write({"format": _FORMAT, "chain_id": chain_id, "time_s": now_s})
                _sync_folder(folder)
                return log, Chain(chain_id, now_s)
            return log, _replay(path, lines, chain_id)
        except BaseException:
            os.close(descriptor)
            raise

    def append(self, block: Block) -> None:
        """On disk when it returns."""
        self._write(
            {
                "number": block.number,
                "time_s": block.time_s,
                "mix_hash": block.header.mix_hash.hex(),
                "raw": [raw.hex() for raw in block.raw],
                "hash": block.hash.hex(),
            }
        )

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replay(path: Path, lines: list[bytes], chain_id: int) -> Chain:
    try:
        first = json.loads(lines[0])
        if first["format"] != _FORMAT:
            raise DevnetUnusable(f"{path}: written in format {first['format']}, this program reads {_FORMAT}")
        if first["chain_id"] != chain_id:
            raise DevnetUnusable(f"{path}: this is chain {first['chain_id']}, not {chain_id}")
        chain = Chain(chain_id, first["time_s"])
        for line in lines[1:]:
            record = json.loads(line)
            chain.revert_to(record["number"] - 1)
            raw = [bytes.fromhex(text) for text in record["raw"]]
            block = chain.mine(raw, record["time_s"], bytes.fromhex(record["mix_hash"]))
            if block.hash.hex() != record["hash"]:
                raise DevnetUnusable(f"{path}: block {record['number']} came out as {block.hash.hex()}")
    except (ValueError, KeyError, TypeError, Unminable) as error:
        raise DevnetUnusable(f"{path}: damaged: {error!r}") from error
    return chain
