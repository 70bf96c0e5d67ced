"""What coordinator and nodes say about audits, stream protocol `/deserve/audit/1`.

A node that works for pay opens the stream beside its control stream: megabytes of evidence hold up no heartbeat there.
The coordinator asks the audited node for evidence (`EvidenceRequest` -> `EvidenceHeader` with `EvidencePart`s, or
`NoEvidence`) and hands it on to an auditor (`AuditTask` with parts -> `AuditCommit` -> `RevealRequest` ->
`AuditReveal`). A task names neither the audited node nor its receipts: who replays cannot ask it, and cannot tell a
canary from any other task without computing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.money_messages import SignedReceipt
from deserve_network.ring_messages import MAX_CONTEXT, Sampling
from deserve_network.schema import Max, Min, Table

__all__ = [
    "AUDIT",
    "AUDIT_PROTOCOL",
    "MAX_PART_BYTES",
    "PRINT_BYTES",
    "AuditCommit",
    "AuditDeclined",
    "AuditReveal",
    "AuditTask",
    "ChunkProof",
    "ChunkSpan",
    "DrawnFrom",
    "EvidenceHeader",
    "EvidencePart",
    "EvidenceRequest",
    "NoEvidence",
    "RevealRequest",
    "RowEvidence",
    "RowsOver",
    "Summons",
    "TailEvidence",
]

AUDIT_PROTOCOL = "/deserve/audit/1"
MAX_PART_BYTES = 256 << 10
PRINT_BYTES = 64
"""Of one token's fingerprint: 16 float32."""
MAX_SPANS = 1 << 20
MAX_ROWS_OVER = 1 << 14
MAX_CHUNKS = 1 << 14
"""Of one row that a panel votes on."""

Bytes32 = Annotated[bytes, Min(32), Max(32)]
AuditId = Annotated[bytes, Min(16), Max(16)]
Count = Annotated[int, Min(0)]
Path = Annotated[tuple[Bytes32, ...], Max(64)]
"""Siblings from a leaf up to its root (`deserve_ledger.commitments`)."""


@dataclass(frozen=True, slots=True)
class DrawnFrom:
    """Why this work is audited: `deserve_ledger.draw` gives the same answer to everybody who has these."""

    anchor: Bytes32
    """Root of the receipts that the work's own is under."""
    position: Count
    """Of the ledger, settled after the root was anchored; its beacon decides."""
    beacon: Bytes32
    rate_ppm: Count
    """Of a million stage-rows of this node, how many are audited."""


@dataclass(frozen=True, slots=True)
class EvidenceRequest:
    """Coordinator to the audited node: show what stage `stage` did with this row, in the last attempt under this lease
    if there were several: it holds all positions. Asked three times at most."""

    audit: AuditId
    ask: Annotated[int, Min(1)]
    ring: Annotated[str, Max(64)]
    epoch: Count
    stage: Count
    first: Count
    last: Count
    """The layers that it was assigned."""
    job_id: Bytes32
    row: int
    lease: Count
    drawn: DrawnFrom


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """`count` tokens of the row from position `start` that one chunk of steps computed, and that chunk's seed."""

    chunk: Count
    start: Count
    count: Annotated[int, Min(1)]
    seed: Bytes32
    """Of the fingerprints' matrix: see `deserve_kernels.fingerprints`."""


@dataclass(frozen=True, slots=True)
class TailEvidence:
    """What the last stage was told of a row, and what it drew."""

    sampling: Sampling
    prompt: Annotated[tuple[int, ...], Max(MAX_CONTEXT)]
    generated: Annotated[tuple[int, ...], Max(MAX_CONTEXT)]
    """Token ids of earlier attempts, not drawn here."""
    drawn: Annotated[tuple[int, ...], Max(MAX_CONTEXT)]
    """Token ids that follow them."""


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """All that a replay needs: layers [first, last) over the row's inputs must give its fingerprints.

    The parts that follow hold the inputs of all spans, `token_bytes` each, in order, then their fingerprints, float32
    [tokens, 16], little-endian; the tail has none. Inputs are as they crossed the wire, packed by `codec`; at the head
    that is "ids", int32.
    """

    first: Count
    last: Count
    codec: Annotated[str, Max(32)]
    dtype: Annotated[str, Max(16)]
    """Of the hidden states that the wire bytes decode to."""
    token_bytes: Annotated[int, Min(1)]
    spans: Annotated[tuple[ChunkSpan, ...], Max(MAX_SPANS)]
    tail: TailEvidence | None = None

    @property
    def tokens(self) -> int:
        return sum(span.count for span in self.spans)

    @property
    def body_bytes(self) -> int:
        """Of the parts together."""
        return self.tokens * (self.token_bytes + (PRINT_BYTES if self.tail is None else 0))


@dataclass(frozen=True, slots=True)
class ChunkProof:
    """How the row's part of one chunk hangs on that chunk's receipt."""

    chunk: Count
    start: Count
    count: Annotated[int, Min(1)]
    in_path: Path
    out_path: Path
    """At the tail, where tokens were drawn in this chunk; else empty."""
    print_path: Path
    """Empty at the tail."""


@dataclass(frozen=True, slots=True)
class EvidenceHeader:
    audit: AuditId
    attempt: Count
    """That it is of."""
    evidence: RowEvidence
    proofs: Annotated[tuple[ChunkProof, ...], Max(MAX_SPANS)]


@dataclass(frozen=True, slots=True)
class EvidencePart:
    """The next bytes of the evidence or task announced before, either way; they come in order."""

    audit: AuditId
    offset: Count
    data: Annotated[bytes, Max(MAX_PART_BYTES)]


@dataclass(frozen=True, slots=True)
class NoEvidence:
    """Audited node to coordinator: it does not show any, and why. Counts as one ask without an answer."""

    audit: AuditId
    reason: str


@dataclass(frozen=True, slots=True)
class AuditTask:
    """Coordinator to auditor: replay this. The answer is a commitment within `deadline_s` of the last part."""

    audit: AuditId
    deadline_s: float
    evidence: RowEvidence


@dataclass(frozen=True, slots=True)
class AuditCommit:
    """Auditor to coordinator: `deserve_ledger.draw.verdict_commitment` of what `AuditReveal` will say."""

    audit: AuditId
    commitment: Bytes32


@dataclass(frozen=True, slots=True)
class RevealRequest:
    """Coordinator to auditor: everybody who replays this has committed."""

    audit: AuditId


@dataclass(frozen=True, slots=True)
class AuditReveal:
    audit: AuditId
    passed: bool
    error_ppm: Count
    """Largest relative error of a fingerprint, in millionths."""
    position: int
    """Of the token where it failed first; -1 where it passed."""
    reason: Annotated[str, Max(256)]
    salt: Bytes32


@dataclass(frozen=True, slots=True)
class AuditDeclined:
    """Auditor to coordinator: it cannot replay this, and why; somebody else is asked."""

    audit: AuditId
    reason: str


@dataclass(frozen=True, slots=True)
class Summons:
    """Coordinator to a node that the ledger drew for a panel: the evidence of a challenge, to be followed by its parts.

    Whoever votes on a stake checks everything: here are the receipts, one for each chunk of the evidence, and what the
    stage before says of its fingerprints. The challenge names the hash of evidence and parts.
    """

    challenge: Count
    row: int
    header: EvidenceHeader
    receipts: Annotated[tuple[SignedReceipt, ...], Max(MAX_CHUNKS)]
    previous_print_roots: Annotated[tuple[Bytes32, ...], Max(MAX_CHUNKS)]
    """Of each receipt's chunk; zero at the head."""


@dataclass(frozen=True, slots=True)
class RowsOver:
    """Coordinator to every node: no audit of these rows is open, and none will be drawn. Their evidence may go."""

    job_id: Bytes32
    rows: Annotated[tuple[int, ...], Max(MAX_ROWS_OVER)]


AUDIT = Table(
    "audit",
    {
        1: EvidenceRequest,
        2: EvidenceHeader,
        3: EvidencePart,
        4: NoEvidence,
        5: AuditTask,
        6: AuditCommit,
        7: RevealRequest,
        8: AuditReveal,
        9: AuditDeclined,
        10: Summons,
        11: RowsOver,
    },
    max_bytes=16 << 20,
)
