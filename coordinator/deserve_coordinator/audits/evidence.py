"""Evidence as the coordinator holds it, and whether it is what the audited node signed for.

Nothing is computed here but hashes: whether the outputs follow from the inputs is for an auditor to say. An auditor
does not see the receipts, so only here is it known that what it replays is what was committed to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deserve_coordinator.audits.case import Subject
from deserve_coordinator.store.audit_queries import SignedPart
from deserve_ledger.commitments import ChunkShown, RowPart, chunk_fault, drawn_in_chunk
from deserve_network.audit_messages import PRINT_BYTES, ChunkSpan, EvidenceHeader, RowEvidence

__all__ = ["Expected", "evidence_fault", "header_fault"]

IDS = "ids"
ID_BYTES = 4

Read = Callable[[int, int], bytes]
"""`size` bytes of the body from an offset."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a row's evidence without asking its stage."""

    codec: str
    """Of its batch."""
    dtype: str
    is_tail: bool
    tokens: int | None
    """That passed the stage at least; None where another lease finished the row."""
    prompt: tuple[int, ...] | None = None
    """Its token ids; None where nobody here can tell."""


def header_fault(header: EvidenceHeader, subject: Subject, expected: Expected, most_bytes: int) -> str | None:
    """What is wrong with announced evidence before a byte of it has come; None where nothing is."""
    evidence = header.evidence
    codec = IDS if subject.first == 0 else expected.codec
    position = 0
    chunk = -1
    for span, proof in zip(evidence.spans, header.proofs, strict=False):
        if (proof.chunk, proof.start, proof.count) != (span.chunk, span.start, span.count):
            return f"the proof of chunk {proof.chunk} is of other tokens than the evidence"
        if span.start != position or span.chunk <= chunk:
            return f"the tokens of chunk {span.chunk} do not follow those before"
        position, chunk = position + span.count, span.chunk
    checks = (
        (evidence.body_bytes <= most_bytes, f"{evidence.body_bytes} bytes, at most {most_bytes} are taken"),
        ((evidence.first, evidence.last) == (subject.first, subject.last), "it is of other layers"),
        (evidence.codec == codec, f"it is packed by {evidence.codec!r}, the row by {codec!r}"),
        (codec != IDS or evidence.token_bytes == ID_BYTES, "its token ids do not have 4 bytes each"),
        (evidence.dtype == expected.dtype, f"it is of {evidence.dtype}, the model of {expected.dtype}"),
        ((evidence.tail is not None) == expected.is_tail, "it is not of the stage's place in its ring"),
        (len(evidence.spans) == len(header.proofs) > 0, "a chunk has no proof"),
        (expected.tokens is None or position >= expected.tokens, f"{position} of {expected.tokens} tokens are there"),
    )
    return next((fault for sound, fault in checks if not sound), None) or _prompt_fault(evidence, expected)


def _prompt_fault(evidence: RowEvidence, expected: Expected) -> str | None:
    if evidence.tail is None or expected.prompt is None or evidence.tail.prompt == expected.prompt:
        return None
    return "its prompt is not the row's"


def evidence_fault(
    header: EvidenceHeader, read: Read, subject: Subject, expected: Expected, receipts: Sequence[SignedPart]
) -> str | None:
    """What of evidence whose header is sound is not under the node's receipts; None where everything is."""
    evidence, tail = header.evidence, header.evidence.tail
    layers = (subject.first, subject.last)
    signed = {part.receipt.chunk: part for part in receipts}
    prints_from = evidence.tokens * evidence.token_bytes
    for span, proof in zip(evidence.spans, header.proofs, strict=True):
        if (roots := signed.get(span.chunk)) is None:
            return f"chunk {span.chunk}: nothing was signed for it"
        part = RowPart(subject.job_id, subject.row, subject.lease, header.attempt, span.start, span.count)
        inputs = read(span.start * evidence.token_bytes, span.count * evidence.token_bytes)
        if tail is None:
            prints = read(prints_from + span.start * PRINT_BYTES, span.count * PRINT_BYTES)
            shown = ChunkShown(part, *layers, inputs, proof.in_path, prints, span.seed, proof.print_path)
        else:
            drawn = drawn_in_chunk(part, len(tail.prompt) + len(tail.generated), tail.drawn)
            if drawn is None:
                return f"chunk {span.chunk}: tokens that it drew are missing"
            first, ids = drawn
            shown = ChunkShown(
                part, *layers, inputs, proof.in_path, drawn=ids, first_drawn=first, out_path=proof.out_path
            )
        if (fault := chunk_fault(shown, roots.roots)) is not None:
            return f"chunk {span.chunk}: {fault}"
        if subject.first == 0 and (fault := _ids_fault(inputs, span, expected)) is not None:
            return fault
    return None


def _ids_fault(inputs: bytes, span: ChunkSpan, expected: Expected) -> str | None:
    if expected.prompt is None:
        return None
    ids: Mapping[int, int] = dict(enumerate(struct.unpack(f"<{span.count}i", inputs), span.start))
    wrong = next((p for p, i in ids.items() if p < len(expected.prompt) and expected.prompt[p] != i), None)
    return None if wrong is None else f"token {wrong} is not the row's"
