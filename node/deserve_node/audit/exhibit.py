"""What this node shows of its own work when it is asked: a row's evidence out of the store, as the audit stream has it.

Only what is on disk is shown; whether it convinces is for others to say. Reads wait for the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from deserve_ledger.commitments import print_seed
from deserve_ledger.identifiers import Work, ring_key
from deserve_network.audit_messages import (
    MAX_PART_BYTES,
    ChunkProof,
    ChunkSpan,
    EvidenceHeader,
    EvidencePart,
    EvidenceRequest,
    RowEvidence,
    TailEvidence,
)
from deserve_network.ring_messages import RING, Admit
from deserve_node.proof.errors import EvidenceError
from deserve_node.proof.evidence import EvidenceStore, RowKey
from deserve_node.proof.record import RowRecord

__all__ = ["Exhibit", "exhibit"]

MOST_ATTEMPTS = 1024


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One row's evidence, to be sent: `parts` read it piece by piece."""

    header: EvidenceHeader
    store: EvidenceStore
    key: RowKey
    records: tuple[RowRecord, ...]

    def parts(self) -> Iterator[EvidencePart]:
        """Inputs of all records, then fingerprints of all. Raises `EvidenceError` where they are gone meanwhile."""
        sent = 0
        for offset, size in self._pieces():
            for begin in range(0, size, MAX_PART_BYTES):
                data = self.store.read(self.key, offset + begin, min(MAX_PART_BYTES, size - begin))
                yield EvidencePart(self.header.audit, sent, data)
                sent += len(data)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        yield from ((record.offset, record.input_bytes) for record in self.records)
        yield from ((record.offset + record.input_bytes, record.print_bytes) for record in self.records)


def exhibit(store: EvidenceStore, request: EvidenceRequest, *, dtype: str) -> Exhibit:
    """The row's last attempt under the lease that is asked for. `dtype`: of hidden states, as the swarm's model has it.

    Raises `EvidenceError` where it is not here.
    """
    key = RowKey(request.job_id, request.row, request.lease, 0, request.ring, request.epoch, request.stage)
    records = store.records(key)
    for attempt in range(1, MOST_ATTEMPTS):
        try:
            later = store.records(replace(key, attempt=attempt))
        except EvidenceError:
            break
        key, records = replace(key, attempt=attempt), later
    header = EvidenceHeader(
        request.audit,
        key.attempt,
        RowEvidence(
            request.first,
            request.last,
            records[0].codec,
            dtype,
            records[0].token_bytes,
            tuple(_span(key, record) for record in records),
            _tail(records),
        ),
        tuple(_proof(record) for record in records),
    )
    return Exhibit(header, store, key, tuple(records))


def _span(key: RowKey, record: RowRecord) -> ChunkSpan:
    work = Work(key.job_id, ring_key(key.ring), key.epoch, key.lease, key.attempt, key.stage, record.chunk)
    seed = print_seed(work.work_id, record.wire_root)
    return ChunkSpan(record.chunk, record.came.start, record.came.count, seed)


def _proof(record: RowRecord) -> ChunkProof:
    out_path = record.left_proof if record.printed is None else ()
    return ChunkProof(
        record.chunk, record.came.start, record.came.count, record.came_proof, out_path, record.print_proof
    )


def _tail(records: list[RowRecord]) -> TailEvidence | None:
    if not records[0].admit:
        return None
    admit = RING.decode(records[0].admit)
    if not isinstance(admit, Admit):
        raise EvidenceError("an admission that is damaged")
    drawn = tuple(token for record in records for token in record.drawn)
    return TailEvidence(admit.sampling, admit.prompt, admit.generated, drawn)
