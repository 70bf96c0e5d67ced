"""Rows move from a ring that has many to one that comes late: once, without a loss, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deserve_coordinator.leases import Leases
from deserve_coordinator.store.records import NewBatch, NewRow
from deserve_coordinator.store.sqlite import SqliteStore
from deserve_network.control_messages import Lease, Recall, RowLog, RowResult
from deserve_network.ring_messages import SampledToken

ROWS = 40
RICH, LATE, THIRD = "r-1/1", "r-2/1", "r-3/1"
DRAWN = (SampledToken(0, 5, 7),)


class Book:
    """Leases over a real store; `told` is what each head was sent, `now` the clock."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.told: list[tuple[str, object]] = []
        self.now = 1000.0
        self.leases = Leases(store, lambda *sent: self.told.append(sent), clock=lambda: self.now)

    async def ask(self, holder: str, rows: int = 60) -> list[object]:
        """A request, and what it makes the coordinator say."""
        self.leases.request(holder, rows)
        return await self.grant()

    async def grant(self) -> list[object]:
        before = len(self.told)
        await self.leases.grant()
        await self.leases.grant()  # the first may not see yet that nothing is pending any more
        return [message for _, message in self.told[before:]]

    async def give_back(self, lease: Lease, rows: int, holder: str = RICH) -> list[RowLog]:
        logs = [RowLog(row.row, lease.lease, lease.fence, DRAWN) for row in lease.rows[-rows:]]
        await self.leases.take_back(holder, logs, recalled=True)
        return logs

    async def failures(self) -> int:
        return int(await self.store._database.read(lambda c: c.execute("SELECT sum(failures) FROM rows").fetchone()[0]))


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    store = SqliteStore(tmp_path / "coordinator.db")
    await store.create_batch(NewBatch("b", "/v1/completions", "demo", "file", "24h", 1, 2, None, "digest"))
    await store.insert_rows("b", [NewRow(n, f"r{n}", b"{}") for n in range(ROWS)])
    assert await store.begin_batch("b", ROWS, 1)
    yield Book(store)
    store.close()


async def all_to_the_first(book: Book) -> Lease:
    """One ring has every row and asks for more; then two more rings serve."""
    book.leases.open(RICH)
    (lease,) = await book.ask(RICH)
    assert isinstance(lease, Lease)
    assert len(lease.rows) == ROWS
    assert await book.ask(RICH) == []
    book.leases.open(LATE)
    book.now += 60
    return lease


async def test_a_late_ring_gets_its_part_though_the_rich_one_has_asked_for_longer(book: Book) -> None:
    lease = await all_to_the_first(book)
    assert await book.ask(LATE) == [Recall("r-1", 1, ROWS // 2)]
    assert await book.grant() == []  # not while those are on their way
    logs = await book.give_back(lease, ROWS // 2)
    (moved,) = await book.grant()
    assert isinstance(moved, Lease)
    assert book.told[-1][0] == LATE
    assert {row.row for row in moved.rows} == {log.row for log in logs}
    assert all(row.generated == DRAWN for row in moved.rows)
    assert moved.fence > lease.fence
    assert await book.ask(LATE) == []
    assert book.leases.counts.recalled == ROWS // 2


async def test_a_third_ring_takes_from_each_and_the_others_take_nothing_of_it(book: Book) -> None:
    lease = await all_to_the_first(book)
    await book.ask(LATE)
    await book.give_back(lease, ROWS // 2)
    (moved,) = await book.grant()
    assert isinstance(moved, Lease)
    assert await book.ask(LATE) == []
    book.leases.open(THIRD)
    book.now += 60
    (recall,) = await book.ask(THIRD)  # of 20, 20 and 0 its share is 14, and 6 above a share is much
    assert recall == Recall("r-1", 1, 6)
    await book.give_back(Lease(lease.lease, lease.fence, 1.0, lease.rows[: ROWS // 2]), 6)
    book.leases.request(RICH, 60)
    book.leases.request(LATE, 60)
    (granted,) = await book.grant()
    assert isinstance(granted, Lease)
    assert (book.told[-1][0], len(granted.rows)) == (THIRD, 6)
    assert await book.ask(THIRD) == [Recall("r-2", 1, 6)]


async def test_a_row_that_ends_while_it_is_recalled_ends_once(book: Book) -> None:
    lease = await all_to_the_first(book)
    assert await book.ask(LATE) == [Recall("r-1", 1, ROWS // 2)]
    last = lease.rows[-1].row
    done = RowResult(last, lease.lease, lease.fence, b'{"a":1}', 200, 1, 1)
    assert (await book.leases.finish(RICH, [done])).stored == 1
    await book.give_back(lease, ROWS // 2)  # a head would not name that row any more; the store does not rely on it
    (moved,) = await book.grant()
    assert isinstance(moved, Lease)
    assert last not in {row.row for row in moved.rows}
    gone = moved.rows[0].row
    late = RowResult(gone, lease.lease, lease.fence, b'{"a":1}', 200, 1, 1)
    assert (await book.leases.finish(RICH, [late])).stale == 1


async def test_recalled_rows_are_no_loss_when_their_ring_fails_later(book: Book) -> None:
    lease = await all_to_the_first(book)
    await book.ask(LATE)
    await book.give_back(lease, ROWS // 2)
    book.leases.leave(RICH, failed=True)
    await book.leases.count_losses()
    assert await book.failures() == 0


async def test_rows_that_a_ring_gives_back_unasked_are_a_loss_when_it_fails(book: Book) -> None:
    lease = await all_to_the_first(book)
    await book.give_back(lease, 3)
    book.leases.leave(RICH, failed=True)
    await book.leases.count_losses()
    assert await book.failures() == 3


async def test_a_recall_that_brings_nothing_is_repeated_after_a_grace(book: Book) -> None:
    await all_to_the_first(book)
    recall = Recall("r-1", 1, ROWS // 2)
    assert await book.ask(LATE) == [recall]
    assert await book.ask(LATE) == []
    book.now += 10
    assert await book.grant() == [recall]


async def test_a_recall_for_a_ring_that_is_gone_leaves_its_rows_to_the_others(book: Book) -> None:
    lease = await all_to_the_first(book)
    await book.ask(LATE)
    await book.leases.lost(LATE)
    await book.give_back(lease, ROWS // 2)
    (again,) = await book.grant()
    assert isinstance(again, Lease)
    assert (book.told[-1][0], len(again.rows)) == (RICH, ROWS // 2)


async def test_a_lease_says_how_many_rows_are_still_to_come(book: Book) -> None:
    book.leases.open(RICH)
    (first,) = await book.ask(RICH, 10)
    (last,) = await book.ask(RICH, 60)
    assert isinstance(first, Lease)
    assert isinstance(last, Lease)
    assert [(len(lease.rows), lease.waiting) for lease in (first, last)] == [(10, 30), (30, 0)]


async def test_rows_to_come_are_divided_by_the_rings(book: Book) -> None:
    book.leases.open(RICH)
    book.leases.open(LATE)
    (lease,) = await book.ask(RICH, 4)
    assert isinstance(lease, Lease)
    assert lease.waiting == (ROWS - 4) // 2
