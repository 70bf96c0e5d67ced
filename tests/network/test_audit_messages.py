"""Audit messages: what a stranger's bytes cannot become."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deserve_network.audit_messages import (
    AUDIT,
    MAX_PART_BYTES,
    AuditTask,
    ChunkSpan,
    EvidencePart,
    RowEvidence,
)
from deserve_network.errors import SchemaError

SPANS = (ChunkSpan(3, 0, 5, b"s" * 32), ChunkSpan(4, 5, 1, b"t" * 32))
EVIDENCE = RowEvidence(0, 4, "raw", "float32", 2304, SPANS)
TASK = AuditTask(b"a" * 16, 60.0, EVIDENCE)


def test_a_task_comes_back_as_it_was() -> None:
    assert AUDIT.decode(AUDIT.encode(TASK)) == TASK
    assert EVIDENCE.tokens == 6
    assert EVIDENCE.body_bytes == 6 * (2304 + 64)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (replace(TASK, audit=b"a" * 15), "audit"),
        (replace(TASK, evidence=replace(EVIDENCE, token_bytes=0)), "token_bytes"),
        (replace(TASK, evidence=replace(EVIDENCE, spans=(replace(SPANS[0], count=-1),))), "count"),
        (replace(TASK, evidence=replace(EVIDENCE, spans=(replace(SPANS[0], seed=b""),))), "seed"),
        (EvidencePart(b"a" * 16, 0, bytes(MAX_PART_BYTES + 1)), "data"),
        (EvidencePart(b"a" * 16, -1, b""), "offset"),
    ],
)
def test_a_field_out_of_its_limits_is_named(message: object, field: str) -> None:
    with pytest.raises(SchemaError, match=field):
        AUDIT.decode(AUDIT.encode(message))
