"""What a stage shows of one row, checked against itself and decoded: the inputs of all positions, fingerprints, draws.

Everything is checked before memory is taken for it. Whether the bytes are those that were committed to is the
coordinator's to check, which has the receipts; a task that contradicts itself fails without a replay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deserve_kernels.codecs import CODECS
from deserve_kernels.errors import PayloadError
from deserve_kernels.fingerprints import PROJECTIONS
from deserve_models import ModelSummary
from deserve_network.audit_messages import ChunkSpan, RowEvidence, TailEvidence
from deserve_node.audit.errors import EvidenceInvalid
from deserve_node.tensors import DTYPES

__all__ = ["CommittedRow", "WireOutputs", "outputs_of", "read_evidence"]

IDS = "ids"
ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class CommittedRow:
    """`inputs`: token ids int64 [tokens] at the head, else hidden states [tokens, hidden] in `dtype`, on the CPU.

    `prints` float32 [tokens, 16] and the spans whose seeds they were taken with; None at the tail, which has `tail`.
    """

    first: int
    last: int
    dtype: torch.dtype
    inputs: Tensor
    spans: tuple[ChunkSpan, ...]
    prints: Tensor | None
    tail: TailEvidence | None

    @property
    def tokens(self) -> int:
        return len(self.inputs)

    @property
    def first_drawn(self) -> int:
        """Position of the first token that the tail drew."""
        assert self.tail is not None
        return len(self.tail.prompt) + len(self.tail.generated)


@dataclass(frozen=True, slots=True)
class WireOutputs:
    """What left the stage for the same row, as the next received it: hidden states [tokens, hidden] after `codec`."""

    codec: str
    hidden: Tensor


def read_evidence(evidence: RowEvidence, body: memoryview, model: ModelSummary) -> CommittedRow:
    """The row in `body`, which is all parts of `evidence` together. Raises `EvidenceInvalid`."""
    if not 0 <= evidence.first < evidence.last <= model.num_layers:
        raise EvidenceInvalid("first, last", f"layers [{evidence.first}, {evidence.last}) of {model.num_layers}")
    dtype = DTYPES.get(evidence.dtype)
    if dtype is None:
        raise EvidenceInvalid("dtype", f"{evidence.dtype!r} is not one of {', '.join(DTYPES)}")
    _check_spans(evidence.spans, model.context_length)
    if body.nbytes != evidence.body_bytes:
        raise EvidenceInvalid("body", f"{body.nbytes} bytes where {evidence.body_bytes} are declared")
    is_tail = evidence.last == model.num_layers
    if is_tail != (evidence.tail is not None):
        raise EvidenceInvalid("tail", "missing at the last layer" if is_tail else "given for a stage without draws")
    if evidence.tail is not None:
        _check_tail(evidence.tail, evidence.tokens, model.vocab_size)
    wire = body[: evidence.tokens * evidence.token_bytes]
    inputs = _ids(evidence, wire, model) if evidence.first == 0 else _hidden(evidence, wire, model, dtype)
    prints = None
    if not is_tail:
        prints = torch.frombuffer(bytearray(body[wire.nbytes :]), dtype=torch.float32).view(-1, PROJECTIONS)
    return CommittedRow(evidence.first, evidence.last, dtype, inputs, evidence.spans, prints, evidence.tail)


def outputs_of(committed: CommittedRow, following: RowEvidence, body: memoryview, model: ModelSummary) -> WireOutputs:
    """What the stage after `committed`'s received, from that stage's evidence of the same row.

    `body` may end with the inputs. Raises `EvidenceInvalid`.
    """
    if following.first != committed.last:
        raise EvidenceInvalid("first", f"layer {following.first} does not follow [{committed.first}, {committed.last})")
    if following.tokens != committed.tokens:
        raise EvidenceInvalid("spans", f"{following.tokens} tokens came of {committed.tokens}")
    dtype = DTYPES.get(following.dtype)
    if dtype is None:
        raise EvidenceInvalid("dtype", f"{following.dtype!r} is not one of {', '.join(DTYPES)}")
    if following.codec not in CODECS:
        raise EvidenceInvalid("codec", f"{following.codec!r} is not one of {', '.join(CODECS)}")
    wire = body[: following.tokens * following.token_bytes]
    if wire.nbytes != following.tokens * following.token_bytes:
        raise EvidenceInvalid("body", f"{body.nbytes} bytes for {following.tokens} tokens")
    return WireOutputs(following.codec, _hidden(following, wire, model, dtype))


def _check_spans(spans: tuple[ChunkSpan, ...], context_length: int) -> None:
    end = 0
    last_chunk = -1
    for span in spans:
        if span.start != end:
            raise EvidenceInvalid("spans", f"position {span.start} follows position {end - 1}")
        if span.chunk <= last_chunk:
            raise EvidenceInvalid("spans", f"chunk {span.chunk} follows chunk {last_chunk}")
        end, last_chunk = span.start + span.count, span.chunk
    if not 1 <= end <= context_length:
        raise EvidenceInvalid("spans", f"{end} tokens where a row has 1 to {context_length}")


def _check_tail(tail: TailEvidence, tokens: int, vocabulary: int) -> None:
    for name, ids in (("prompt", tail.prompt), ("generated", tail.generated), ("drawn", tail.drawn)):
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise EvidenceInvalid(f"tail.{name}", f"ids from {min(ids)} to {max(ids)} of a vocabulary of {vocabulary}")
    # The last token of a row is drawn and never fed; a ring that ended early has fed fewer.
    known = len(tail.prompt) + len(tail.generated)
    if len(tail.drawn) != max(0, tokens - known + 1):
        raise EvidenceInvalid("tail.drawn", f"{len(tail.drawn)} tokens after {known} from {tokens} positions")


def _ids(evidence: RowEvidence, wire: memoryview, model: ModelSummary) -> Tensor:
    if evidence.codec != IDS or evidence.token_bytes != ID_BYTES:
        raise EvidenceInvalid("codec", f"{evidence.codec!r} of {evidence.token_bytes} bytes where ids of 4 are due")
    ids = np.frombuffer(wire, "<i4").astype(np.int64)
    if ids.min() < 0 or ids.max() >= model.vocab_size:
        raise EvidenceInvalid("body", f"ids from {ids.min()} to {ids.max()} of a vocabulary of {model.vocab_size}")
    return torch.from_numpy(ids)


def _hidden(evidence: RowEvidence, wire: memoryview, model: ModelSummary, dtype: torch.dtype) -> Tensor:
    codec = CODECS.get(evidence.codec)
    if codec is None:
        raise EvidenceInvalid("codec", f"{evidence.codec!r} is not one of {', '.join(CODECS)}")
    expected = codec.bytes_per_token(model.hidden_size, dtype)
    if evidence.token_bytes != expected:
        raise EvidenceInvalid("token_bytes", f"{evidence.token_bytes} where {evidence.codec} takes {expected}")
    try:
        return codec.decode(wire, (evidence.tokens, model.hidden_size), dtype)
    except PayloadError as error:
        raise EvidenceInvalid("body", str(error)) from error
