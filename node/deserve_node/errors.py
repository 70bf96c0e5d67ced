"""Errors of the node.

NodeError
└── ShardError                 a layer range that cannot be loaded; names tensor, file or layer
    └── UnsupportedModelError  the architecture cannot be served by a ring; says why
"""

from __future__ import annotations

__all__ = ["NodeError", "ShardError", "UnsupportedModelError"]


class NodeError(Exception):
    """Root of everything the node raises on purpose."""


class ShardError(NodeError):
    """A layer range cannot be loaded: out of bounds, a tensor missing, truncated or of the wrong shape."""


class UnsupportedModelError(ShardError):
    """A sound model that a ring cannot serve; the text says why."""
