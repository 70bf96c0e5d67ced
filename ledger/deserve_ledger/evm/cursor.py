"""Reads a contract's events from blocks that will stay, and notices when they did not.

An event's position is its block's height and its place there, so it is the same for everybody who reads the chain. The
cursor remembers the hashes of blocks that it counted as final. Where one of them is gone, whoever has read further than
the last that is still there is told to go back, once.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from deserve_ledger.errors import Reorganised
from deserve_ledger.evm.abi import Interface
from deserve_ledger.evm.chain import Chain, Log
from deserve_ledger.evm.sender import final_height
from deserve_ledger.finality import Confirmations
from deserve_ledger.records import Event

__all__ = ["EventCursor", "block_of", "position_of"]

_INDEX_BITS = 20
_RANGE_BLOCKS = 2000
"""Public endpoints answer for so many blocks at a time."""
_KEPT = 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS final_blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rolled_back (only INTEGER PRIMARY KEY CHECK (only = 0), position INTEGER NOT NULL) STRICT;
"""


def position_of(block: int, index: int) -> int:
    """Of the log number `index` in a block; above that of every log before."""
    return block << _INDEX_BITS | index


def block_of(position: int) -> int:
    return position >> _INDEX_BITS


class EventCursor:
    """`first_block`: where the contract was made, no event is older. `path` None forgets with the process."""

    def __init__(
        self,
        chain: Chain,
        contract: bytes,
        interface: Interface,
        *,
        confirmations: Confirmations,
        first_block: int = 0,
        path: Path | None = None,
    ) -> None:
        self._chain = chain
        self._contract = contract
        self._interface = interface
        self._confirmations = confirmations
        self._first_block = first_block
        self._database = sqlite3.connect(path or ":memory:")
        self._database.executescript("PRAGMA journal_mode = WAL;" + _SCHEMA)

    def close(self) -> None:
        self._database.close()

    async def read(self, after: int, limit: int) -> list[Event]:
        """Up to `limit` final events with a position above `after`.

        Raises `Reorganised` where `after` lies in a part of the chain that is gone. The reader then asks from the
        position in the error, and drops what it has from above it.
        """
        final = await final_height(self._chain, self._confirmations)
        await self._compare()
        self._check(after)
        events: list[Event] = []
        first = max(self._first_block, block_of(after))
        while first <= final and len(events) < limit:
            last = min(first + _RANGE_BLOCKS - 1, final)
            logs = await self._chain.logs(self._contract, first, last)
            events += [one for one in map(self.decode, logs) if one is not None and one.position > after]
            await self._remember(last)
            first = last + 1
        return events[:limit]

    def decode(self, log: Log) -> Event | None:
        """None for a log that is not the contract's, such as the token's."""
        if log.address != self._contract:
            return None
        decoded = self._interface.event(log.topics, log.data)
        return None if decoded is None else Event(position_of(log.block, log.index), *decoded)

    async def beacon(self, position: int) -> bytes | None:
        """The hash of the block after that of `position`, once it is final.

        Not of its own block: whoever makes that could choose, among what goes into it, the hash that suits him.
        """
        after = block_of(position) + 1
        if after > await final_height(self._chain, self._confirmations):
            return None
        block = await self._chain.block(after)
        return None if block is None else block.hash

    async def time_s(self, position: int) -> int:
        """Of the block of `position`."""
        block = await self._chain.block(block_of(position))
        return 0 if block is None else block.time_s

    async def _remember(self, number: int) -> None:
        if (block := await self._chain.block(number)) is None:
            return
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO final_blocks VALUES (?, ?)", (number, block.hash))
            self._database.execute("DELETE FROM final_blocks WHERE number < ?", (number - _KEPT,))

    async def _compare(self) -> None:
        """Forget remembered blocks that are gone; where there were any, note from where to read again."""
        known = self._database.execute("SELECT number, hash FROM final_blocks ORDER BY number DESC").fetchall()
        gone = []
        for number, remembered in known:
            block = await self._chain.block(number)
            if block is not None and block.hash == remembered:
                break
            gone.append(number)
        if not gone:
            return
        left = [number for number, _ in known if number not in gone]
        # The last position of the newest block that is still there; from the start where none is.
        position = position_of(left[0] + 1, 0) - 1 if left else position_of(self._first_block, 0) - 1
        with self._database:
            self._database.execute("DELETE FROM final_blocks WHERE number >= ?", (min(gone),))
            self._database.execute(
                "INSERT INTO rolled_back VALUES (0, ?) ON CONFLICT DO UPDATE SET position = min(position, ?)",
                (position, position),
            )

    def _check(self, after: int) -> None:
        row = self._database.execute("SELECT position FROM rolled_back").fetchone()
        if row is None:
            return
        if after > row[0]:
            raise Reorganised(row[0])
        with self._database:
            self._database.execute("DELETE FROM rolled_back")
