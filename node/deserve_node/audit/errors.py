"""Errors of audits.

AuditError
├── EvidenceInvalid   what a node shows of a row contradicts itself; names the field. The audited node's fault
├── ReplayImpossible  this machine cannot compute what it is asked for; nobody's fault
└── ToleranceInvalid  a profile of tolerances that is missing or cannot be used; names file and key
"""

from __future__ import annotations

from deserve_node.errors import NodeError

__all__ = ["AuditError", "EvidenceInvalid", "ReplayImpossible", "ToleranceInvalid"]


class AuditError(NodeError):
    """Root of what this package raises."""


class EvidenceInvalid(AuditError):
    """What a node shows of a row contradicts itself; `field` says where."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class ReplayImpossible(AuditError):
    """This machine cannot compute what it is asked for."""


class ToleranceInvalid(AuditError):
    """A profile of tolerances is missing or cannot be used; the text names file and key."""
