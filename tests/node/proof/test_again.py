"""Rows that are computed again, after preemption or repair, are other work: nothing contradicts itself."""

from __future__ import annotations

from rings import Ring, by_booking, load_text, rows_of, stages_of, texts

from deserve_ledger.identifiers import Work, ring_key
from deserve_network.ring_messages import SampledToken
from deserve_node.ring.forecast import ExpectedTokens


def contents(receipts):
    """What was signed, by work id; every content that was signed under it."""
    found = {}
    for receipt in receipts:
        where = (ring_key(receipt.ring), receipt.epoch, receipt.lease, receipt.attempt, receipt.stage, receipt.chunk)
        work_id = Work(receipt.job_id, *where).work_id
        found.setdefault(work_id, set()).add((receipt.node_id, receipt.in_root, receipt.out_root, receipt.units))
    return found


def check_chain(receipts, stages):
    for signed in by_booking(receipts).values():
        for stage in range(1, stages):
            assert signed[stage].in_root == signed[stage - 1].out_root


async def test_a_preempted_row_comes_back_as_its_next_attempt(tiny_files, tmp_path, ring_of, monkeypatch):
    # Nobody expects rows to grow, so too many are admitted and throw each other out.
    monkeypatch.setattr(ExpectedTokens, "remaining", lambda self, generated, most: 1)
    computes = stages_of(tiny_files, 2, kv_bytes=16 * 4 * 256 * 22)
    ring = Ring(computes, load_text(tiny_files), tmp_path)
    try:
        results = await ring.serve(rows_of(6, max_tokens=60))
        assert ring.scheduler.preemptions
        receipts = [receipt for stage in range(2) for receipt in ring.receipts(stage)]
        assert {receipt.attempt for receipt in receipts} >= {0, 1}
        assert all(len(signed) == 1 for signed in contents(receipts).values())
        check_chain(receipts, 2)
    finally:
        ring.close()
        for compute in computes:
            compute.close()
    assert texts(results) == texts(await ring_of(2, epoch=9).serve(rows_of(6, max_tokens=60)))


async def test_a_repaired_rings_rows_go_on_under_another_epoch_and_lease(ring_of):
    first = ring_of(2)
    results = await first.serve(rows_of(2, max_tokens=40))
    logs = {}
    for row, result in results.items():
        assert result.completion_tokens == 40 + row
        ids = first.tail_ids(row)
        logs[row] = tuple(SampledToken(0, 20 + row + place, token) for place, token in enumerate(ids[:30]))
    first.close()
    second = ring_of(2, epoch=2)
    again = await second.serve(rows_of(2, lease=2, attempt=3, max_tokens=40, generated=logs))
    assert texts(again) == texts(results)
    # The books of both epochs are the same files.
    receipts = [receipt for stage in range(2) for receipt in second.receipts(stage)]
    assert {(receipt.epoch, receipt.lease, receipt.attempt) for receipt in receipts} == {(1, 1, 0), (2, 2, 3)}
    assert all(len(signed) == 1 for signed in contents(receipts).values())
    # What was drawn before is prefilled anew, and committed to as such.
    anew = [receipt for receipt in second.receipts(0) if receipt.epoch == 2]
    assert sum(receipt.prefill_units for receipt in anew) == 4 * (20 + 30 + 21 + 30)
