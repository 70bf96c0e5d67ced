"""Evidence that contradicts itself fails by the field that does, before anything is computed."""

from __future__ import annotations

import dataclasses

import pytest

from deserve_models import inspect
from deserve_network.audit_messages import TailEvidence
from deserve_network.ring_messages import Sampling
from deserve_node.audit.errors import EvidenceInvalid
from deserve_node.audit.evidence import outputs_of, read_evidence
from deserve_node.audit.worker import audit_row


@pytest.fixture(scope="module")
def shown(show):
    return show(rows=1)[0]


@pytest.fixture(scope="module")
def shown_tail(show):
    return show(rows=1, first=6, last=8)[0]


def spans_of(shown, **changes):
    return (dataclasses.replace(shown.evidence.spans[0], **changes), *shown.evidence.spans[1:])


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("first, last", {"first": 6, "last": 3}),
        ("first, last", {"last": 9}),
        ("dtype", {"dtype": "int4"}),
        ("codec", {"codec": "zip"}),
        ("token_bytes", {"codec": "int8"}),
        ("spans", {"spans": ()}),
        ("tail", {"tail": TailEvidence(Sampling(), (1,), (), ())}),
    ],
)
def test_a_field_that_does_not_fit_is_named(shown, tiny_files, field, changes):
    evidence = dataclasses.replace(shown.evidence, **changes)
    body = memoryview(bytes(evidence.body_bytes))
    with pytest.raises(EvidenceInvalid) as caught:
        read_evidence(evidence, body, inspect(tiny_files))
    assert caught.value.field == field


def test_positions_leave_no_gap_and_chunks_have_an_order(shown, tiny_files):
    span = shown.evidence.spans[0]
    for spans, told in (
        (spans_of(shown, start=1), "position 1 follows position -1"),
        ((span, dataclasses.replace(span, start=span.count)), "chunk 0 follows chunk 0"),
        (spans_of(shown, count=100_000), "tokens where a row has"),
    ):
        evidence = dataclasses.replace(shown.evidence, spans=spans)
        with pytest.raises(EvidenceInvalid, match=told):
            read_evidence(evidence, shown.body, inspect(tiny_files))


def test_bytes_that_are_missing_or_too_many_are_told(shown, tiny_files):
    for body in (shown.body[:-1], memoryview(bytes(shown.body) + b"\0")):
        with pytest.raises(EvidenceInvalid, match="body"):
            read_evidence(shown.evidence, body, inspect(tiny_files))


def test_a_tail_shows_as_many_draws_as_it_was_fed(shown_tail, tiny_files):
    tail = shown_tail.evidence.tail
    for changed, field in (
        (dataclasses.replace(tail, drawn=tail.drawn[:-1]), "tail.drawn"),
        (dataclasses.replace(tail, drawn=(*tail.drawn, 1)), "tail.drawn"),
        (dataclasses.replace(tail, prompt=(-1, *tail.prompt[1:])), "tail.prompt"),
        (dataclasses.replace(tail, drawn=(260, *tail.drawn[1:])), "tail.drawn"),
        (None, "tail"),
    ):
        evidence = dataclasses.replace(shown_tail.evidence, tail=changed)
        body = memoryview(bytes(evidence.body_bytes))
        with pytest.raises(EvidenceInvalid) as caught:
            read_evidence(evidence, body, inspect(tiny_files))
        assert caught.value.field == field


def test_ids_are_of_the_vocabulary(show, tiny_files):
    (shown,) = show(rows=1, first=0, last=3)
    body = bytearray(shown.body)
    body[0:4] = (260).to_bytes(4, "little")
    with pytest.raises(EvidenceInvalid, match="vocabulary"):
        read_evidence(shown.evidence, memoryview(body), inspect(tiny_files))


def test_what_the_next_stage_received_has_to_follow(shown, tiny_files):
    summary = inspect(tiny_files)
    committed = read_evidence(shown.evidence, shown.body, summary)
    after, body = shown.following
    assert outputs_of(committed, after, body, summary).hidden.shape == committed.inputs.shape
    for changes, field in (
        ({"first": 5}, "first"),
        ({"spans": spans_of(shown, count=3)}, "spans"),
        ({"codec": "zip"}, "codec"),
        ({"dtype": "int4"}, "dtype"),
    ):
        with pytest.raises(EvidenceInvalid) as caught:
            outputs_of(committed, dataclasses.replace(after, **changes), body, summary)
        assert caught.value.field == field
    with pytest.raises(EvidenceInvalid, match="body"):
        outputs_of(committed, after, body[:-1], summary)


def test_a_row_that_contradicts_itself_fails_with_the_reason(shown, replayer, profile):
    verdict = audit_row(replayer, profile, dataclasses.replace(shown.evidence, dtype="float32"), shown.body)
    assert not verdict.passed
    assert verdict.reason.startswith("dtype: float32")
    assert verdict.position == 0
