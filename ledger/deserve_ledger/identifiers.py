"""Names that nobody can choose: each is a hash of what it names, as the contract computes it.

A work id names one stage's part of one chunk of steps. It holds ring epoch, lease and attempt, so that an honest node
that computes a row again signs something new and never contradicts itself.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from eth_hash.auto import keccak

from deserve_ledger.eip712 import encode_words

__all__ = ["CHUNK_STEPS", "Work", "job_id", "node_id", "ring_key"]

CHUNK_STEPS = 64
"""Steps of a ring between two commitments, at most: what a node can lose if it is not paid for a chunk."""

_WORK = (
    ("jobId", "bytes32"),
    ("ring", "bytes32"),
    ("epoch", "uint64"),
    ("lease", "uint64"),
    ("attempt", "uint64"),
    ("stage", "uint64"),
    ("chunk", "uint64"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a work id is the hash of. `ring` is `ring_key` of the ring's id; `chunk` counts within the ring's epoch."""

    job_id: bytes
    ring: bytes
    epoch: int
    lease: int
    attempt: int
    stage: int
    chunk: int

    @property
    def work_id(self) -> bytes:
        """32 bytes. Raises `InvalidField` for a part that does not fit its type."""
        return keccak(encode_words(_WORK, astuple(self)))


def job_id(payer: bytes, salt: bytes) -> bytes:
    """A job of the account `payer`; `salt` is any 32 bytes that it has not used before."""
    return keccak(encode_words((("payer", "address"), ("salt", "bytes32")), (payer, salt)))


def node_id(operator: bytes, peer_key: bytes) -> bytes:
    """The node of the account `operator` with the raw Ed25519 public key `peer_key` (32 bytes)."""
    return keccak(encode_words((("operator", "address"), ("peerKey", "bytes32")), (operator, peer_key)))


def ring_key(ring: str) -> bytes:
    """32 bytes for a ring's id."""
    return keccak(ring.encode())
