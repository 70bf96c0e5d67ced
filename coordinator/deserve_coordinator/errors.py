"""Every exception the coordinator raises on purpose.

CoordinatorError
├── StoreError            the database cannot be used
├── AddressInUse          a listening port is taken
├── ConfigurationError    a flag or file of the operator is wrong
├── PlanError             no ring can be cut from these nodes
├── ProtocolViolation     a node said something it must not say; names the field
├── BatchRefused          a batch cannot be created as asked
└── RowRefused            one row cannot be served; becomes that row's error
"""

from __future__ import annotations

__all__ = [
    "AddressInUse",
    "BatchRefused",
    "ConfigurationError",
    "CoordinatorError",
    "PlanError",
    "ProtocolViolation",
    "RowRefused",
    "StoreError",
]


class CoordinatorError(Exception):
    """Root of this package's errors."""


class StoreError(CoordinatorError):
    """The database cannot be used."""


class AddressInUse(CoordinatorError):
    """A listening port is taken."""


class ConfigurationError(CoordinatorError):
    """A flag or file of the operator is wrong; the text names it."""


class PlanError(CoordinatorError):
    """No ring can be cut from these nodes."""


class ProtocolViolation(CoordinatorError):
    """A node said something it must not say."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class BatchRefused(CoordinatorError):
    """A batch cannot be created as asked."""

    def __init__(self, message: str, *, param: str | None, code: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


class RowRefused(CoordinatorError):
    """One row cannot be served; `status` is the HTTP status that a direct request would have got."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
