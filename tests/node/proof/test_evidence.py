"""What came is kept as it came, within a cap, until a row is decided; and reads back as what was signed for."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from rings import JOB, by_booking, rows_of

from deserve_kernels.fingerprints import project
from deserve_ledger.commitments import print_seed
from deserve_network.ring_messages import RING, Admit, Chunk, RowLabel, Sampling
from deserve_node.proof.commitment import Booking, commit
from deserve_node.proof.committer import ClosedWork, StagePosition
from deserve_node.proof.errors import EvidenceError
from deserve_node.proof.evidence import EvidenceStore, RowKey
from deserve_node.proof.passage import Passage, Run
from deserve_node.proof.record import check_record

HIDDEN = 4
POSITION = StagePosition("r", 1, 1, 2, 4, torch.float32, HIDDEN, "peer-0")


def work_of(*rows, chunk=0, start=0, tokens=8):
    """`rows` keys, each with `tokens` positions from `start`."""
    inputs = torch.randn(len(rows) * tokens, HIDDEN, generator=torch.Generator().manual_seed(start + 1))
    data = memoryview(inputs.numpy()).cast("B")
    chunks = [Chunk(row, start, tokens, 1) for row in rows]
    passage = Passage.of(chunks, [Run("raw", HIDDEN * 4, data)], [Run("raw", HIDDEN * 4, data)])
    labels = {row: RowLabel(row, JOB, row, 1, 0, tokens) for row in rows}
    booked = commit(
        [passage], labels, lambda booking: POSITION.work(booking, chunk).work_id, dtype=torch.float32, hidden=HIDDEN
    )
    return [ClosedWork(POSITION, chunk, one) for one in booked]


def key_of(row):
    return RowKey(JOB, row, 1, 0, "r", 1, 1)


@pytest.fixture
def store_of(tmp_path):
    made = []

    def store(cap_bytes=1 << 20, **options):
        made.append(EvidenceStore(tmp_path / "evidence", cap_bytes=cap_bytes, **options))
        return made[-1]

    yield store
    for one in made:
        one.close()


def sizes(directory):
    return {path.name: path.stat().st_size for path in directory.glob("*/*")}


def test_a_rows_positions_come_back_in_order_over_chunks_and_restarts(store_of):
    store = store_of()
    store.keep(work_of(1, 2), {})
    store.keep(work_of(2, chunk=1, start=8), {})
    store.close()
    again = store_of()
    first, second = again.records(key_of(2))
    assert [(record.chunk, record.came.start, record.came.count) for record in (first, second)] == [
        (0, 0, 8),
        (1, 8, 8),
    ]
    assert (
        again.read(key_of(2), second.offset, second.input_bytes)
        == work_of(2, chunk=1, start=8)[0].booked.rows[0].inputs
    )
    assert again.bytes_held == sum(sizes(again._directory).values())


def test_the_cap_lets_go_of_decided_rows_the_oldest_first_and_then_takes_nothing_more(store_of, caplog):
    one = store_of()
    one.keep(work_of(1), {})
    one.flush()
    size = one.bytes_held
    one.close()
    store = store_of(cap_bytes=3 * size)
    store.keep(work_of(2), {})
    store.keep(work_of(3), {})
    store.decided(JOB, 2)
    store.decided(JOB, 1)
    store.keep(work_of(4), {})
    assert store.records(key_of(4))
    with pytest.raises(EvidenceError):
        store.records(key_of(2))
    assert store.records(key_of(1)), "decided, but there is room for it"
    store.keep(work_of(5), {})
    store.keep(work_of(6), {})
    with pytest.raises(EvidenceError, match="dropped"):
        store.records(key_of(6))
    assert [len(store.records(key_of(row))) for row in (3, 4, 5)] == [1, 1, 1]
    assert store.rows_dropped == 1
    assert store.bytes_held <= 3 * size
    assert "--evidence-disk" in caplog.text


def test_a_row_with_a_hole_is_no_evidence(store_of):
    store = store_of()
    store.keep(work_of(1), {})
    store.keep(work_of(1, chunk=2, start=16), {})
    with pytest.raises(EvidenceError, match="from position 8"):
        store.records(key_of(1))


def test_what_is_too_much_for_the_queue_is_dropped_without_waiting(store_of, monkeypatch):
    gate = threading.Event()
    append = EvidenceStore._append
    monkeypatch.setattr(EvidenceStore, "_append", lambda *given: (gate.wait(10), append(*given)))
    store = store_of(queue_bytes=1_500)
    for row in range(4):
        store.keep(work_of(row), {})
    gate.set()
    store.flush()
    assert 0 < store.rows_dropped < 4
    assert len(store.records(key_of(0))) == 1


def test_rows_that_nobody_asked_about_for_long_are_forgotten(store_of):
    now = [1_000.0]
    store = store_of(retention_s=60, clock=lambda: now[0])
    store.keep(work_of(1), {})
    store.flush()
    now[0] += 61
    store.keep(work_of(2), {})
    store.flush()
    with pytest.raises(EvidenceError):
        store.records(key_of(1))
    assert store.records(key_of(2))


def test_a_record_that_a_crash_cut_off_is_none(store_of):
    store = store_of()
    store.keep(work_of(1), {})
    store.keep(work_of(1, chunk=1, start=8), {})
    store.flush()
    (path,) = store._directory.glob("*/*")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert [record.chunk for record in store.records(key_of(1))] == [0]


def test_the_tail_keeps_what_it_draws_by(store_of):
    position = dataclasses.replace(POSITION, stage=2)
    admit = Admit("r", 1, 1, Sampling(seed=5), (1, 2, 3))
    works = [dataclasses.replace(work, position=position) for work in work_of(1)]
    store = store_of()
    store.keep(works, {1: admit})
    (record,) = store.records(dataclasses.replace(key_of(1), stage=2))
    assert RING.decode(record.admit) == admit


@pytest.mark.parametrize("codec", ["raw", "int8"])
async def test_evidence_of_a_ring_is_under_the_receipts_and_only_as_it_was(ring_of, codec):
    ring = ring_of(4)
    await ring.serve(rows_of(3, codec=codec, max_tokens=70))
    receipts = by_booking([receipt for stage in range(4) for receipt in ring.receipts(stage)])
    label = RowLabel(0, JOB, 1, 1, 0, 1)
    for stage in range(4):
        evidence = ring.proofs[stage].evidence
        key = RowKey(JOB, 1, 1, 0, "r", 1, stage)
        records = evidence.records(key)
        assert len(records) >= 2
        for record in records:
            inputs = evidence.read(key, record.offset, record.input_bytes)
            prints = evidence.read(key, record.offset + record.input_bytes, record.print_bytes)
            signed = receipts[record.chunk, JOB, 1, 0]
            previous = signed[stage - 1].print_root if stage else bytes(32)
            check_record(record, label, inputs, prints, signed[stage], previous, (2 * stage, 2 * stage + 2))
            for wrong in (
                (record, label, inputs[:-1] + b"\xff", prints),
                (record, dataclasses.replace(label, row=2), inputs, prints),
                (dataclasses.replace(record, came=dataclasses.replace(record.came, start=1)), label, inputs, prints),
                (dataclasses.replace(record, chunk=record.chunk + 1), label, inputs, prints),
                *([(record, label, inputs, b"\xff" + prints[1:])] if prints else []),
            ):
                with pytest.raises(EvidenceError):
                    check_record(*wrong, signed[stage], previous, (2 * stage, 2 * stage + 2))
            with pytest.raises(EvidenceError):
                check_record(record, label, inputs, prints, signed[stage], previous, (2 * stage, 2 * stage + 1))
            if codec == "raw" and stage < 3:
                following = ring.proofs[stage + 1].evidence
                next_key = dataclasses.replace(key, stage=stage + 1)
                (same,) = [one for one in following.records(next_key) if one.chunk == record.chunk]
                came = torch.frombuffer(
                    bytearray(following.read(next_key, same.offset, same.input_bytes)), dtype=torch.float32
                ).view(-1, 64)
                work = ring.committers[stage].position.work(Booking(JOB, 1, 0), record.chunk)
                expected = project(came, print_seed(work.work_id, record.wire_root))
                found = torch.frombuffer(bytearray(prints), dtype=torch.float32).view(-1, 16)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    tail = ring.proofs[3].evidence.records(RowKey(JOB, 1, 1, 0, "r", 1, 3))
    assert RING.decode(tail[0].admit).sequence >= 0
    assert sum(len(record.drawn) for record in tail) == 71
