"""Which work is audited: a draw that nobody knows before the work is committed to and that everybody can repeat after.

A ticket is the hash of a beacon (randomness of the ledger settled after the commitment), of the commitment and of what
is drawn. It wins where it is below the rate. So the coordinator cannot pick whom it likes, and a node cannot know
which rows to be honest with. Also here: what a verdict's commitment hashes, since both sides of it need the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak

from deserve_ledger.amounts import check_uint64
from deserve_ledger.eip712 import encode_words
from deserve_ledger.errors import InvalidField

__all__ = ["PPM", "DrawnWork", "is_drawn", "verdict_commitment"]

PPM = 1_000_000
_TICKET = (
    ("beacon", "bytes32"),
    ("anchor", "bytes32"),
    ("nodeId", "bytes32"),
    ("jobId", "bytes32"),
    ("row", "uint64"),
    ("lease", "uint64"),
    ("stage", "uint64"),
)
_VERDICT = (
    ("audit", "bytes32"),
    ("passed", "uint64"),
    ("errorPpm", "uint64"),
    ("position", "uint64"),
    ("salt", "bytes32"),
)


@dataclass(frozen=True, slots=True)
class DrawnWork:
    """What one ticket is for: everything that one stage did with one row under one lease, in all its attempts."""

    node_id: bytes
    job_id: bytes
    row: int
    lease: int
    stage: int


def is_drawn(work: DrawnWork, *, anchor: bytes, beacon: bytes, rate_ppm: int) -> bool:
    """Whether `work`, committed to under the 32-byte root `anchor`, is audited at `rate_ppm` millionths.

    `beacon`: the ledger's 32 bytes for a position settled after the anchor. Raises `InvalidField`.
    """
    if not 0 <= rate_ppm <= PPM:
        raise InvalidField("rate_ppm", f"{rate_ppm} is not from 0 to {PPM}")
    fields = (beacon, anchor, work.node_id, work.job_id, work.row, work.lease, work.stage)
    ticket = int.from_bytes(keccak(encode_words(_TICKET, fields)), "big")
    return ticket * PPM < rate_ppm << 256


def verdict_commitment(audit: bytes, *, passed: bool, error_ppm: int, position: int, salt: bytes) -> bytes:
    """What an auditor commits to, 32 bytes. `audit` has 16, `salt` 32 that nobody else knows; `position` is -1 or more.

    Raises `InvalidField`.
    """
    if len(audit) != 16:
        raise InvalidField("audit", f"{len(audit)} bytes where 16 are expected")
    # Shifted by one: -1, "nowhere", has no place in an unsigned word.
    where = check_uint64("position", position + 1)
    return keccak(encode_words(_VERDICT, (audit.rjust(32, b"\0"), int(passed), error_ppm, where, salt)))
