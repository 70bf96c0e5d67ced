"""Errors of the node.

NodeError
├── ShardError                 a layer range that cannot be loaded; names tensor, file or layer
│   └── UnsupportedModelError  the architecture cannot be served by a ring; says why
├── OutOfPagesError            (engine.pages) a step wants more pages than there are; the head's account is another
├── CopyError                  (engine.swap) pages could not be copied between device and host memory
├── KvMemoryError              (engine.cache) the memory left for KV does not hold one page a layer
├── SettingsError              (settings) a setting that cannot be used; names it
├── ProfileError               (timed.profile) a stage profile that cannot be used; names file and key
├── HttpError                  (http) the status address cannot be listened on
├── NotRunningError            (status) no node runs on a data directory
├── StatusError                (status) what answers at an address is no node, or nothing does
├── RefusedError               (introduction) coordinator and node do not fit together for good
├── WalletUnusable             (wallet) the node's money cannot be kept on disk
├── CreditRefused              (wallet) a credit that the coordinator cannot mean; names its field
├── Unpaid                     (wallet) the node has worked ahead of its pay as far as its operator allows
├── SamplingError              (sampler) a row from which no token can be drawn; names its sequence
├── AssignmentError            (member) the coordinator's Assign or Begin does not fit this node
├── NoLinkError                (ring.neighbours) a neighbour could not be linked with; names it
├── RingProtocolError          (ring.head) a stage of the ring sent what does not belong there
├── PayloadError               (ring.payload) a frame's payload is not what its header declares
├── AuditError                 (audit.errors) an audit that cannot be done; has a tree of its own
├── CommitmentMismatch         (proof.errors) a neighbour commits to something else than it sent; names it
├── ContradictionError         (proof.errors) something else has been signed for this work before
└── EvidenceError              (proof.errors) evidence that is not there, damaged, or not what was committed to
"""

from __future__ import annotations

__all__ = ["NodeError", "ShardError", "UnsupportedModelError"]


class NodeError(Exception):
    """Root of everything the node raises on purpose."""


class ShardError(NodeError):
    """A layer range cannot be loaded: out of bounds, a tensor missing, truncated or of the wrong shape."""


class UnsupportedModelError(ShardError):
    """A sound model that a ring cannot serve; the text says why."""
