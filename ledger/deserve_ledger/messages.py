"""What parties sign: amounts that only grow, and work that was done. Every type is EIP-712 (`eip712`).

A *voucher* is what a payer owes the coordinator for one job, a *credit* what the coordinator owes a node, both since
the beginning of time: the newest replaces all before it, so one is enough to collect and a replay collects nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["BindNode", "Credit", "Voucher", "WorkReceipt"]

_Types = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Voucher:
    """Signed by a job's session key or payer: the coordinator may draw `cumulative` base units from its escrow.

    `seq` grows with each voucher of the job. `results_root` is the Merkle root of the results that it pays for.
    """

    NAME: ClassVar[str] = "Voucher"
    TYPES: ClassVar[_Types] = (
        ("jobId", "bytes32"),
        ("cumulative", "uint128"),
        ("seq", "uint64"),
        ("resultsRoot", "bytes32"),
    )

    job_id: bytes
    cumulative: int
    seq: int
    results_root: bytes


@dataclass(frozen=True, slots=True)
class Credit:
    """Signed by `coordinator`: it owes the node `cumulative` base units, for the receipts under `receipts_root`.

    Two contents under one (node, seq) are proof of fraud.
    """

    NAME: ClassVar[str] = "Credit"
    TYPES: ClassVar[_Types] = (
        ("coordinator", "address"),
        ("nodeId", "bytes32"),
        ("cumulative", "uint128"),
        ("seq", "uint64"),
        ("receiptsRoot", "bytes32"),
    )

    coordinator: bytes
    node_id: bytes
    cumulative: int
    seq: int
    receipts_root: bytes


@dataclass(frozen=True, slots=True)
class WorkReceipt:
    """Signed by a node's receipt key: it turned what `in_root` commits to into what `out_root` commits to.

    `units` are layer-tokens. Two contents under one (work, node) are proof of fraud.
    """

    NAME: ClassVar[str] = "WorkReceipt"
    TYPES: ClassVar[_Types] = (
        ("workId", "bytes32"),
        ("nodeId", "bytes32"),
        ("inRoot", "bytes32"),
        ("outRoot", "bytes32"),
        ("units", "uint128"),
    )

    work_id: bytes
    node_id: bytes
    in_root: bytes
    out_root: bytes
    units: int


@dataclass(frozen=True, slots=True)
class BindNode:
    """Signed by a node's receipt key for the chain, and by its libp2p key for everybody who talks to it.

    `peer_key` is the raw Ed25519 public key. Together they say that `operator` is paid for what that peer does.
    """

    NAME: ClassVar[str] = "BindNode"
    TYPES: ClassVar[_Types] = (("operator", "address"), ("peerKey", "bytes32"), ("nonce", "uint64"))

    operator: bytes
    peer_key: bytes
    nonce: int
