"""A batch is published once its audits are over, and without what did not stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deserve_coordinator.blobs import Blobs
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.store import audit_queries


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "files")


@pytest.fixture
def jobs(bench: Any, blobs: Blobs) -> Jobs:
    return Jobs(bench.store, blobs, lambda *_: None, clock=lambda: bench.now_s, audits=bench.desk)


async def test_a_batch_with_all_its_rows_is_finalizing_until_its_audits_are_over(bench: Any, jobs: Jobs) -> None:
    stages = await bench.deliver(2)
    for name in "abcd":
        bench.join(name)
    for _ in range(3):
        await jobs.advance("b")
        assert (await bench.store.batch("b")).status == "finalizing"
    bench.beacons[await bench.sign(stages)] = b"b" * 32
    await bench.decided(6)
    await jobs.advance("b")
    assert (await bench.store.batch("b")).status == "completed"


async def test_refuted_rows_are_computed_by_others_before_the_batch_completes(
    bench: Any, jobs: Jobs, blobs: Blobs
) -> None:
    stages = await bench.deliver(3)
    bench.cheats.add((1, stages[0].rows[2]))
    bench.beacons[await bench.sign(stages)] = b"b" * 32
    for name in "abcdef":
        bench.join(name)
    await jobs.advance("b")
    await bench.until(lambda: bool(bench.out))
    await jobs.advance("b")
    assert (await bench.store.batch("b")).status == "in_progress"
    bench.cheats.clear()
    again = await bench.deliver(3, "ring/2", "adc")
    bench.beacons[await bench.sign(again, "adc")] = b"c" * 32
    await jobs.advance("b")
    assert (await bench.store.batch("b")).status == "finalizing"
    await bench.until(lambda: bench.desk.open == 0)
    await jobs.advance("b")
    batch = await bench.store.batch("b")
    assert (batch.status, batch.completed, batch.failed) == ("completed", 3, 0)
    lines = [json.loads(line) for line in blobs.path(batch.output_file_id).read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r2"]
    escrow = await bench.store.money.escrow("b")
    assert dict(await _bills(bench)) == {0: 1, 1: 1, 2: 1, 3: 0, 4: 0, 5: 0}
    assert escrow.bills == 6
    assert escrow.charged == 3 * 6 * (5 * 100 + 4 * 100) // 10**6


async def test_what_is_published_is_not_taken_back(bench: Any, jobs: Jobs) -> None:
    stages = await bench.deliver(2)
    bench.beacons[await bench.sign(stages)] = b"b" * 32
    bench.desk._drawing._policy = type(bench.policy)(newcomer_ppm=0)
    await bench.desk.step()
    await jobs.advance("b")
    assert (await bench.store.batch("b")).status == "completed"
    assert await bench.store.audits._database.write(_withdraw_all) == []


def _withdraw_all(c: Any) -> list[int]:
    return audit_queries.withdraw(c, [1, 2])


async def _bills(bench: Any) -> list[tuple[int, int]]:
    found = await bench.store.audits._database.read(lambda c: c.execute("SELECT position, void FROM bills").fetchall())
    return [(row["position"], row["void"]) for row in found]
