"""Rings that commit: what left one stage is what the next signs for, results do not change, and lies have a name."""

from __future__ import annotations

import dataclasses

import pytest
from rings import DOMAIN, JOB, by_booking, key_of, rows_of, texts

from deserve_ledger.commitments import root_of
from deserve_ledger.eip712 import recover
from deserve_ledger.identifiers import Work, ring_key
from deserve_ledger.keystore import Key
from deserve_ledger.messages import WorkReceipt
from deserve_network.ring_messages import ChunkClosed, Step
from deserve_node.proof.errors import CommitmentMismatch


def check_signature(receipt):
    where = (ring_key(receipt.ring), receipt.epoch, receipt.lease, receipt.attempt, receipt.stage, receipt.chunk)
    work_id = Work(receipt.job_id, *where).work_id
    signed = WorkReceipt(work_id, receipt.node_id, receipt.in_root, receipt.out_root, receipt.units)
    assert recover(DOMAIN, signed, receipt.signature) == Key.of(key_of(receipt.stage).key).address


@pytest.mark.parametrize("codec", ["raw", "int8"])
@pytest.mark.parametrize("stages", [2, 4])
async def test_each_stage_signs_for_the_very_bytes_that_the_stage_before_signed_for(ring_of, stages, codec):
    ring = ring_of(stages)
    results = await ring.serve(rows_of(6, codec=codec, max_tokens=60))
    receipts = [receipt for stage in range(stages) for receipt in ring.receipts(stage)]
    bookings = by_booking(receipts)
    assert len(bookings) >= 2
    for signed in bookings.values():
        assert sorted(signed) == list(range(stages))
        for stage in range(stages):
            check_signature(signed[stage])
            if stage:
                assert signed[stage].in_root == signed[stage - 1].out_root
            assert signed[stage].out_root == root_of(signed[stage].wire_root, signed[stage].print_root)
    layers = 8 // stages
    for stage in range(stages):
        own = ring.receipts(stage)
        # Every token but the last drawn one is computed, once.
        computed = sum(result.prompt_tokens + result.completion_tokens - 1 for result in results.values())
        assert sum(receipt.units for receipt in own) == layers * computed
        assert sum(receipt.prefill_units for receipt in own) == layers * sum(r.prompt_tokens for r in results.values())
    assert all(proofs.evidence.rows_dropped == 0 for proofs in ring.proofs)


@pytest.mark.parametrize("codec", ["raw", "int8"])
async def test_results_are_those_of_a_ring_that_commits_to_nothing(ring_of, codec):
    committed = await ring_of(2).serve(rows_of(4, codec=codec))
    plain = await ring_of(2, committing=False, epoch=2).serve(rows_of(4, codec=codec, paid=False))
    assert texts(committed) == texts(plain)


async def test_rows_that_nobody_pays_for_are_not_committed_to(ring_of):
    ring = ring_of(2)
    free = rows_of(3, paid=False)
    paid = dataclasses.replace(rows_of(4), rows=rows_of(4).rows[3:])
    await ring.serve(free, paid)
    for stage in range(2):
        assert {(receipt.job_id, receipt.rows, receipt.first_row) for receipt in ring.receipts(stage)} == {(JOB, 1, 3)}


async def test_a_ring_of_one_commits_to_ids_and_tokens(ring_of):
    ring = ring_of(1)
    await ring.serve(rows_of(3))
    receipts = ring.receipts(0)
    assert receipts
    for receipt in receipts:
        check_signature(receipt)


async def test_without_labels_nothing_is_told_down_the_ring(ring_of):
    ring = ring_of(2)
    ring.committers[0].rows = None  # a call would fail
    plain = ring_of(2, committing=False, epoch=2)
    await plain.serve(rows_of(2))
    assert not [message for message in plain.hops[0].passed if isinstance(message, ChunkClosed)]
    assert all(message.labels == () for message in plain.hops[0].passed if isinstance(message, Step))
    for committer in ring.committers:
        await committer.finish()


def flipped(at_step):
    def tamper(message, payload):
        if isinstance(message, Step) and message.step == at_step:
            payload[len(payload) // 2] ^= 1
        return message, payload

    return tamper


@pytest.mark.parametrize("codec", ["raw", "int8"])
async def test_a_byte_that_was_flipped_between_two_stages_is_blamed_on_who_sent_it(ring_of, codec):
    ring = ring_of(4)
    ring.hops[1].tamper = flipped(2)
    with pytest.RaisesGroup(pytest.RaisesExc(CommitmentMismatch), flatten_subgroups=True) as raised:
        await ring.serve(rows_of(4, codec=codec))
    (error,) = raised.value.exceptions
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert (error.peer_id, error.chunk) == ("peer-1", 0)
    (sent,), (came,) = ring.receipts(1), ring.receipts(2)
    assert sent.out_root != came.in_root
    check_signature(came)


async def test_a_tail_that_commits_to_other_tokens_than_it_sent_is_blamed(ring_of):
    ring = ring_of(2)

    def tamper(message, payload):
        if isinstance(message, ChunkClosed):
            booked = tuple(dataclasses.replace(roots, wire_root=b"x" * 32) for roots in message.booked)
            message = dataclasses.replace(message, booked=booked)
        return message, payload

    ring.tokens.tamper = tamper
    with pytest.RaisesGroup(pytest.RaisesExc(CommitmentMismatch, match="the tail peer-1"), flatten_subgroups=True):
        await ring.serve(rows_of(2))
