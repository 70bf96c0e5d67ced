"""What the store hands out and takes in: frozen records without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deserve_coordinator.money.tariff import RowSize
from deserve_coordinator.store.money_records import EscrowRecord

__all__ = [
    "FINAL",
    "Backlog",
    "BatchRecord",
    "FileRecord",
    "FinishCounts",
    "FinishedRow",
    "LeaseRecord",
    "LeasedRecord",
    "NewBatch",
    "NewRow",
    "Refusal",
    "ReturnedRow",
    "RowOutcome",
]

FINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class FileRecord:
    id: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    """Of the content, in hexadecimal."""
    created_at: int


@dataclass(frozen=True, slots=True)
class NewBatch:
    id: str
    endpoint: str
    model: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: Mapping[str, str] | None
    request_digest: str
    """SHA-256 of the request, to tell a repeated creation from another one under the same key."""
    idempotency_key: str | None = None
    codecs: tuple[str, ...] = ("raw",)
    """Wire codecs that its rows may cross links with."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    id: str
    endpoint: str
    model: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    completion_window: str
    status: str
    outcome: str
    metadata: Mapping[str, str] | None
    errors: list[dict[str, Any]] | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    request_digest: str = ""
    codecs: tuple[str, ...] = ("raw",)
    codec: str | None = None
    """The one that holds for all its rows, fixed by its first lease; None before."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row gets an error instead of a response; `status` 0 means it was never answered at all."""

    status: int
    code: str | None
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class NewRow:
    ordinal: int
    custom_id: str
    body: bytes
    """The OpenAI request body, JSON in UTF-8."""
    refusal: Refusal | None = None
    size: RowSize | None = None
    """None: its tokens were not counted, and the head's figures count."""


@dataclass(frozen=True, slots=True)
class LeasedRecord:
    key: int
    batch_id: str
    ordinal: int
    endpoint: str
    body: bytes
    log: bytes | None
    codec: str = "raw"
    """Of its batch."""
    job_id: bytes | None = None
    """Of the escrow that pays for its batch, 32 bytes; None: nobody pays."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    lease: int
    fence: int
    rows: tuple[LeasedRecord, ...]


@dataclass(frozen=True, slots=True)
class FinishedRow:
    key: int
    lease: int
    fence: int
    status: int
    body: bytes
    prompt_tokens: int
    completion_tokens: int
    shown_tokens: int = 1 << 32
    """Completion tokens that the body shows at most."""
    shows_all: bool = False
    """Whether that is their exact number."""


@dataclass(frozen=True, slots=True)
class ReturnedRow:
    key: int
    lease: int
    fence: int
    log: bytes | None
    tokens: int = 0
    """In its log."""


@dataclass(frozen=True, slots=True)
class FinishCounts:
    stored: int = 0
    duplicate: int = 0
    """Rows that already had their result."""
    stale: int = 0
    """Rows that another lease has taken over, or that do not exist."""
    batches: frozenset[str] = field(default_factory=frozenset)
    """Batches that now have a result for every row."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Open rows of one batch that is in progress."""

    batch_id: str
    pending: int
    leased: int
    escrow: EscrowRecord | None = None
    """What pays for it; None: nobody, and any ring may have its rows."""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    ordinal: int
    custom_id: str
    status: int
    body: bytes
