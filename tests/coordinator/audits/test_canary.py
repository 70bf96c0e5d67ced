"""Canaries: evidence that an honest replay must refuse, and that looks like any other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.audits.canary import CanaryKey, altered
from deserve_network.audit_messages import AUDIT, PRINT_BYTES, AuditTask, ChunkSpan, RowEvidence, TailEvidence
from deserve_network.ring_messages import Sampling

KEY = CanaryKey(b"k" * 32)


@given(st.lists(st.binary(min_size=6, max_size=6), min_size=1, max_size=30), st.binary(min_size=16, max_size=16))
def test_two_inputs_change_places_and_nothing_else_does(tokens: list[bytes], audit: bytes) -> None:
    evidence = RowEvidence(4, 8, "bf16", "float32", 6, (ChunkSpan(0, 0, len(tokens), b"s" * 32),))
    prints = bytes(range(PRINT_BYTES)) * len(tokens)
    made = altered(KEY, audit, evidence, b"".join(tokens) + prints)
    if len(set(tokens)) == 1:
        assert made is None
        return
    # A token that is the only one of its kind among equal ones is always found.
    assert made is not None
    same, body = made
    assert same == evidence
    assert body.endswith(prints)
    shown = [body[i * 6 : i * 6 + 6] for i in range(len(tokens))]
    assert sorted(shown) == sorted(tokens)
    assert sum(one != other for one, other in zip(tokens, shown, strict=True)) == 2


def test_at_the_tail_two_drawn_tokens_change_places_and_the_task_keeps_its_size() -> None:
    tail = TailEvidence(Sampling(), (1, 2, 3), (), (7, 7, 9, 8))
    evidence = RowEvidence(4, 8, "raw", "float32", 6, (ChunkSpan(0, 0, 6, b"s" * 32),), tail)
    made = altered(KEY, b"a" * 16, evidence, bytes(36))
    assert made is not None
    changed = made[0].tail
    assert changed is not None
    assert changed.drawn != tail.drawn
    assert sorted(changed.drawn) == sorted(tail.drawn)
    sizes = [len(AUDIT.encode(AuditTask(b"a" * 16, 60.0, one))) for one in (evidence, made[0])]
    assert sizes[0] == sizes[1]


def test_which_tokens_is_different_for_every_audit_and_key() -> None:
    numbers = {KEY.number(bytes([i]) * 16, "first", 1000) for i in range(40)}
    assert len(numbers) > 30
    assert CanaryKey(b"l" * 32).number(bytes(16), "first", 1 << 60) != KEY.number(bytes(16), "first", 1 << 60)


def test_as_many_audits_get_a_canary_as_the_rate_says() -> None:
    audits = [i.to_bytes(16, "big") for i in range(4000)]
    wanted = sum(KEY.wanted(audit, 100_000) for audit in audits)
    assert abs(wanted - 400) < 5 * 19
    assert abs(sum(KEY.must_fail(audit) for audit in audits) - 3000) < 5 * 27.4
