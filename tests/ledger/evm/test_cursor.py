"""Events from blocks that stay: a chain that loses some, and one too long for a single request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest

from deserve_ledger.errors import Reorganised
from deserve_ledger.evm.abi import ledger_interface
from deserve_ledger.evm.chain import BlockReference, Log
from deserve_ledger.evm.cursor import EventCursor, block_of, position_of

CONTRACT = bytes([1]) * 20
DEPOSITED = next(topic for topic, entry in ledger_interface()._events.items() if entry["name"] == "Deposited")


@dataclass
class ShortMemory:
    """A chain of which a test says what is in each block. `amounts[i]`: deposits in block `i` of the branch."""

    amounts: list[list[int]] = field(default_factory=lambda: [[]])
    branch: str = "a"
    branches: list[str] = field(default_factory=lambda: ["a"])
    asked: list[tuple[int, int]] = field(default_factory=list)

    def grow(self, *blocks: list[int]) -> None:
        self.amounts += blocks
        self.branches += [self.branch] * len(blocks)

    def fork(self, height: int, branch: str) -> None:
        """Take back all blocks above `height`; what grows now has other hashes."""
        self.branch = branch
        del self.amounts[height + 1 :], self.branches[height + 1 :]

    async def block(self, number):
        if isinstance(number, str):
            number = len(self.amounts) - 1
        if number >= len(self.amounts):
            return None
        name = hashlib.sha256(f"{self.branches[number]}{number}".encode()).digest()
        return BlockReference(number, name, bytes(32), 1000 + number)

    async def logs(self, address, first, last):
        self.asked.append((first, last))
        return [
            Log(block, index, (DEPOSITED, bytes(32)), amount.to_bytes(32, "big"), CONTRACT)
            for block in range(first, min(last, len(self.amounts) - 1) + 1)
            for index, amount in enumerate(self.amounts[block])
        ]


def cursor(chain, confirmations=2, **options) -> EventCursor:
    return EventCursor(chain, CONTRACT, ledger_interface(), confirmations=confirmations, **options)


async def amounts(reading: EventCursor, after: int = -1, limit: int = 100) -> list[int]:
    return [int(event.fields["amount"]) for event in await reading.read(after, limit)]


async def test_what_may_still_be_taken_back_is_not_told():
    chain = ShortMemory()
    chain.grow([1], [2, 3], [4])
    assert await amounts(cursor(chain)) == [1]
    chain.grow([], [])
    assert await amounts(cursor(chain)) == [1, 2, 3, 4]
    assert await amounts(cursor(chain), after=position_of(2, 0)) == [3, 4]
    assert await amounts(cursor(chain), limit=2) == [1, 2]


async def test_blocks_taken_back_before_they_were_final_are_never_noticed():
    chain = ShortMemory()
    chain.grow([1], [2], [3])
    reading = cursor(chain)
    assert await amounts(reading) == [1]
    chain.fork(1, "b")
    chain.grow([20], [30], [40])
    assert await amounts(reading, after=position_of(1, 0)) == [20]


async def test_final_blocks_taken_back_are_told_until_the_reader_has_gone_back():
    chain = ShortMemory()
    chain.grow([1], [2], [3])
    reading = cursor(chain, confirmations=0)
    await amounts(reading, limit=100)
    chain.grow([4], [5])
    await amounts(reading, after=position_of(3, 0))
    chain.fork(3, "b")
    chain.grow([40], [50], [60])
    for _ in range(2):
        with pytest.raises(Reorganised) as told:
            await reading.read(position_of(5, 0), 100)
        assert block_of(told.value.position) == 3
    assert await amounts(reading, after=told.value.position) == [40, 50, 60]
    assert await amounts(reading, after=position_of(6, 0)) == []


async def test_a_reader_who_had_not_come_that_far_is_not_told():
    chain = ShortMemory()
    chain.grow([1], [2])
    reading = cursor(chain, confirmations=0)
    assert await amounts(reading, limit=1) == [1]
    chain.fork(1, "b")
    chain.grow([20])
    with pytest.raises(Reorganised):
        await reading.read(position_of(2, 0), 100)
    assert await amounts(reading, after=-1) == [1, 20]


async def test_what_was_final_is_remembered_over_a_restart(tmp_path):
    chain = ShortMemory()
    chain.grow([1], [2], [3])
    reading = cursor(chain, confirmations=0, path=tmp_path / "events")
    await amounts(reading)
    reading.close()
    chain.fork(1, "b")
    chain.grow([20], [30])
    with pytest.raises(Reorganised):
        await cursor(chain, confirmations=0, path=tmp_path / "events").read(position_of(3, 0), 100)


async def test_a_long_chain_is_asked_for_in_parts_from_the_contracts_block_on():
    chain = ShortMemory()
    chain.grow(*[[] for _ in range(4999)], [7])
    assert await amounts(cursor(chain, confirmations=0, first_block=500)) == [7]
    assert chain.asked == [(500, 2499), (2500, 4499), (4500, 5000)]


async def test_a_beacon_waits_for_the_next_block_to_be_final():
    chain = ShortMemory()
    chain.grow([1], [], [])
    assert await cursor(chain).beacon(position_of(1, 0)) is None
    chain.grow([])
    known = await cursor(chain).beacon(position_of(1, 0))
    block = await chain.block(2)
    assert block is not None
    assert known == block.hash
