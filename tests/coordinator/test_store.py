"""Rows end exactly once, whatever is reported, returned or lost, and in whatever order."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deserve_coordinator.errors import StoreError
from deserve_coordinator.store import batch_queries, row_queries
from deserve_coordinator.store.migrate import migrate, migrations
from deserve_coordinator.store.records import FinishedRow, LeaseRecord, NewBatch, NewRow, Refusal, ReturnedRow
from deserve_coordinator.store.sqlite import SqliteStore


def new_batch(name: str = "b", key: str | None = None, codecs: tuple[str, ...] = ("raw",)) -> NewBatch:
    return NewBatch(name, "/v1/completions", "demo", "file-x", "24h", 1, 2, {"k": "v"}, "digest", key, codecs)


def begin(c: sqlite3.Connection, name: str, rows: int, codecs: tuple[str, ...] = ("raw",)) -> None:
    batch_queries.create_batch(c, new_batch(name, codecs=codecs))
    row_queries.insert_rows(c, name, [NewRow(i, f"r{i}", b"{}") for i in range(rows)])
    batch_queries.set_total(c, name, rows)
    batch_queries.transition(c, name, ("validating",), "in_progress", 5)


class Rows(RuleBasedStateMachine):
    """Rings lease, finish, return and vanish at random; a plain dictionary says what must be true."""

    def __init__(self) -> None:
        super().__init__()
        self.c = sqlite3.connect(":memory:", isolation_level=None)
        self.c.row_factory = sqlite3.Row
        migrate(self.c)
        begin(self.c, "b", 6)
        self.leases: list[tuple[str, LeaseRecord]] = []
        self.newest: dict[int, tuple[str, int]] = {}
        self.results: dict[int, bytes] = {}
        self.count = 0

    @rule(ring=st.sampled_from("xyz"), rows=st.integers(1, 4))
    def lease(self, ring: str, rows: int) -> None:
        record = row_queries.lease_rows(self.c, ring, {"b": rows}, 1 << 20)
        if record is not None:
            self.leases.append((ring, record))
            for row in record.rows:
                assert row.key not in self.results
                self.newest[row.key] = (ring, record.fence)

    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        if not self.leases:
            return
        ring, record = data.draw(st.sampled_from(self.leases))
        row = data.draw(st.sampled_from(record.rows))
        self.count += 1
        body = str(self.count).encode()
        current = self.newest[row.key] == (ring, record.fence)
        counts = row_queries.finish_rows(
            self.c, ring, [FinishedRow(row.key, record.lease, record.fence, 200, body, 1, 2)]
        )
        if current and row.key not in self.results:
            assert counts.stored == 1
            self.results[row.key] = body
        else:
            assert (counts.stored, counts.duplicate + counts.stale) == (0, 1)

    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        if self.leases:
            ring, record = data.draw(st.sampled_from(self.leases))
            rows = [ReturnedRow(row.key, record.lease, record.fence, b"log") for row in record.rows]
            row_queries.return_rows(self.c, ring, rows, failed=False)

    @rule(ring=st.sampled_from("xyz"))
    def vanish(self, ring: str) -> None:
        row_queries.release_ring(self.c, ring, failed=False)

    @invariant()
    def stored_results_never_change(self) -> None:
        stored = {row["row"]: row["body"] for row in self.c.execute("SELECT * FROM results")}
        assert stored == self.results
        batch = batch_queries.batch(self.c, "b")
        assert batch is not None
        assert (batch.completed, batch.output_tokens) == (len(stored), 2 * len(stored))

    @invariant()
    def the_backlog_is_what_counting_the_rows_would_say(self) -> None:
        states = [row["state"] for row in self.c.execute("SELECT state FROM rows")]
        (backlog,) = row_queries.backlog(self.c)
        assert (backlog.pending, backlog.leased) == (states.count("pending"), states.count("leased"))

    def teardown(self) -> None:
        self.c.close()


TestRows = Rows.TestCase
TestRows.settings = settings(
    deadline=None, max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def memory() -> Any:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    migrate(connection)
    yield connection
    connection.close()


def test_a_returned_log_comes_back_with_the_next_lease(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 1)
    first = row_queries.lease_rows(memory, "x", {"b": 1}, 100)
    assert first is not None
    key = first.rows[0].key
    assert row_queries.return_rows(memory, "x", [ReturnedRow(key, first.lease, first.fence, b"log")], failed=False) == [
        key
    ]
    second = row_queries.lease_rows(memory, "y", {"b": 1}, 100)
    assert second is not None
    assert second.rows[0].log == b"log"
    assert second.fence > first.fence
    assert row_queries.return_rows(memory, "x", [ReturnedRow(key, first.lease, first.fence, b"old")], failed=True) == []


@pytest.mark.parametrize(
    ("allowed", "proposals", "fixed"),
    [
        (("raw", "int8"), [("int8",), (), ("bf16",)], "int8"),
        (("raw", "int8"), [(), ("int8",)], "raw"),
        (("raw", "int8"), [("bf16",), ("int8",)], "raw"),
        (("raw", "int8"), [("bf16", "int8"), ()], "int8"),
        (("raw",), [("int8",), ("int8",)], "raw"),
        (("raw", "bf16", "int8"), [("unheard of",), ("bf16",)], "raw"),
    ],
)
def test_the_first_lease_fixes_a_batchs_codec_for_all_its_rows(
    memory: sqlite3.Connection, allowed: tuple[str, ...], proposals: list[tuple[str, ...]], fixed: str
) -> None:
    begin(memory, "b", 6, allowed)
    begin(memory, "untouched", 1, allowed)
    for ring, proposed in enumerate(proposals):
        lease = row_queries.lease_rows(memory, f"ring-{ring}", {"b": 2, "untouched": 0}, 1 << 20, proposed)
        assert lease is not None
        assert [row.codec for row in lease.rows] == [fixed, fixed]
    codecs = {name: batch_queries.batch(memory, name) for name in ("b", "untouched")}
    assert [(record.codecs, record.codec) for record in codecs.values() if record] == [
        (allowed, fixed),
        (allowed, None),
    ]


def test_a_row_that_is_lost_too_often_gets_an_error(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 1)
    for _ in range(row_queries.MAX_FAILURES):
        assert row_queries.lease_rows(memory, "x", {"b": 1}, 100) is not None
        row_queries.release_ring(memory, "x", failed=True)
    assert row_queries.lease_rows(memory, "x", {"b": 1}, 100) is None
    (outcome,) = row_queries.outcomes(memory, "b", -1, 10)
    assert outcome.status == 500
    assert b"retries_exhausted" in outcome.body


def test_a_row_that_is_given_back_costs_a_life_only_where_its_ring_failed(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 1)
    for failed in [False] * 20 + [True] * row_queries.MAX_FAILURES:
        lease = row_queries.lease_rows(memory, "x", {"b": 1}, 100)
        assert lease is not None
        given_back = ReturnedRow(lease.rows[0].key, lease.lease, lease.fence, b"log")
        for again in range(2):
            keys = row_queries.return_rows(memory, "x", [given_back], failed=failed)
            assert keys == ([] if again else [given_back.key])
    assert row_queries.lease_rows(memory, "x", {"b": 1}, 100) is None
    (outcome,) = row_queries.outcomes(memory, "b", -1, 10)
    assert b"retries_exhausted" in outcome.body


def test_a_loss_counted_late_ends_a_waiting_row_but_not_one_that_another_ring_computes(
    memory: sqlite3.Connection,
) -> None:
    begin(memory, "b", 2)
    memory.execute("UPDATE rows SET failures = ?", (row_queries.MAX_FAILURES - 1,))
    lease = row_queries.lease_rows(memory, "y", {"b": 1}, 100)
    assert lease is not None
    keys = [row["key"] for row in memory.execute("SELECT key FROM rows ORDER BY key")]
    row_queries.count_losses(memory, [*keys, 999])
    (outcome,) = row_queries.outcomes(memory, "b", -1, 10)
    assert (outcome.ordinal, outcome.status) == (1, 500)
    result = FinishedRow(keys[0], lease.lease, lease.fence, 200, b"{}", 1, 1)
    assert row_queries.finish_rows(memory, "y", [result]).stored == 1


def test_a_lease_is_bounded_in_bytes_but_never_empty(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 0)
    row_queries.insert_rows(memory, "b", [NewRow(i, f"r{i}", b"x" * 60) for i in range(4)])
    sizes = [len(record.rows) for record in iter(lambda: row_queries.lease_rows(memory, "x", {"b": 9}, 130), None)]
    assert sizes == [2, 2]
    row_queries.insert_rows(memory, "b", [NewRow(9, "r9", b"x" * 600)])
    assert row_queries.lease_rows(memory, "x", {"b": 9}, 130) is not None


def test_a_refused_row_is_finished_when_it_is_inserted(memory: sqlite3.Connection) -> None:
    batch_queries.create_batch(memory, new_batch())
    row_queries.insert_rows(memory, "b", [NewRow(0, "r", b"{}", Refusal(400, "c", "m", "p"))])
    batch = batch_queries.batch(memory, "b")
    assert batch is not None
    assert batch.failed == 1
    row_queries.remove_rows(memory, "b")
    assert row_queries.outcomes(memory, "b", -1, 10) == []


def test_rows_of_a_batch_that_has_begun_are_not_forgotten(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 2)
    row_queries.remove_rows(memory, "b")
    batch = batch_queries.batch(memory, "b")
    assert batch is not None
    assert batch.total == 2
    assert row_queries.lease_rows(memory, "x", {"b": 9}, 1 << 20) is not None


def test_the_backlog_is_asked_for_without_reading_rows(memory: sqlite3.Connection) -> None:
    begin(memory, "b", 3)
    asked: list[str] = []
    memory.set_trace_callback(asked.append)
    assert [(b.batch_id, b.pending, b.leased) for b in row_queries.backlog(memory)] == [("b", 3, 0)]
    memory.set_trace_callback(None)
    (statement,) = asked
    plan = [row["detail"] for row in memory.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert [step for step in plan if step.startswith("SCAN")] == []
    assert {step.split()[1] for step in plan if step.startswith("SEARCH")} == {"b", "o", "e"}


def test_rows_that_are_forgotten_leave_the_backlog(memory: sqlite3.Connection) -> None:
    batch_queries.create_batch(memory, new_batch())
    row_queries.insert_rows(memory, "b", [NewRow(0, "r", b"{}"), NewRow(1, "s", b"{}", Refusal(400, "c", "m", "p"))])
    row_queries.remove_rows(memory, "b")
    row_queries.insert_rows(memory, "b", [NewRow(0, "r", b"{}")])
    batch_queries.transition(memory, "b", ("validating",), "in_progress", 5)
    assert [(b.pending, b.leased) for b in row_queries.backlog(memory)] == [(1, 0)]


FIRST_SCHEMA = """
INSERT INTO batches (id, endpoint, model, input_file_id, completion_window, status, created_at, expires_at,
    in_progress_at, total, request_digest)
    VALUES ('b', '/v1/completions', 'demo', 'file-x', '24h', 'in_progress', 1, 2, 5, 5, 'digest');
INSERT INTO rows (batch_id, ordinal, custom_id, body, state, ring) VALUES
    ('b', 0, 'r0', '{}', 'leased', 'x'), ('b', 1, 'r1', '{}', 'leased', 'x'), ('b', 2, 'r2', '{}', 'pending', ''),
    ('b', 3, 'r3', '{}', 'pending', ''), ('b', 4, 'r4', '{}', 'pending', '');
"""


def test_a_database_of_the_first_schema_gets_its_backlog_counted_and_stays_exact() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as c:
        c.row_factory = sqlite3.Row
        c.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
        c.executescript(migrations()[0][1])
        c.execute("INSERT INTO schema_version VALUES (1)")
        c.executescript(FIRST_SCHEMA)
        migrate(c)
        row_queries.release_ring(c, "x", failed=False)
        lease = row_queries.lease_rows(c, "y", {"b": 1}, 1 << 20, ("int8",))
        assert lease is not None
        assert lease.rows[0].codec == "raw"
        assert [(b.pending, b.leased) for b in row_queries.backlog(c)] == [(4, 1)]


def test_migrations_are_numbered_and_run_once(memory: sqlite3.Connection) -> None:
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert migrate(memory) == numbers[-1]
    memory.execute("INSERT INTO schema_version VALUES (999)")
    with pytest.raises(StoreError, match="999"):
        migrate(memory)


async def test_writes_that_wait_together_share_a_commit_and_fail_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    good = [store.create_batch(new_batch(f"b{i}")) for i in range(50)]
    outcomes = await asyncio.gather(*good, store.create_batch(new_batch("b0")), return_exceptions=True)
    assert [isinstance(outcome, sqlite3.IntegrityError) for outcome in outcomes] == [False] * 50 + [True]
    assert store._database.commits < 50
    store.close()
    assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == 0o600
    again = SqliteStore(tmp_path / "s.db")
    assert len(await again.batches(after=None, limit=100) or []) == 50
    again.close()


async def test_the_store_is_durable_before_it_answers(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    await store.create_batch(new_batch("b"))
    other = sqlite3.connect(tmp_path / "s.db")
    assert other.execute("SELECT count(*) FROM batches").fetchone() == (1,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"s\.db"):
        SqliteStore(path)
