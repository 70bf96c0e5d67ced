"""Nodes and links that differ from the others, in the terms of network namespaces: members instead of names.

In a namespace a node has one up- and one downlink for all that it says, and a path has a delay. So bandwidth belongs to
a node here, and a link's place in the ring means nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from deserve_coordinator.link_shapes import LinkShapes
from deserve_testnet.errors import UsageError
from deserve_testnet.wan.paths import Access, PathDelay

__all__ = ["Differences", "differences"]

_NODE = re.compile(r"node-([1-9][0-9]*)")


@dataclass(frozen=True)
class Differences:
    """By member: 0 is the coordinator, n the node "node-n"."""

    access: dict[int, Access] = field(default_factory=dict)
    delays: dict[tuple[int, int], PathDelay] = field(default_factory=dict)


def differences(shapes: LinkShapes) -> Differences:
    """What `shapes` says beside its default. Raises UsageError for what namespaces cannot do."""
    access = {
        _member(name): Access(own.latency_ms / 1e3, own.uplink_mbit, own.downlink_mbit)
        for name, own in shapes.nodes.items()
    }
    delays = {}
    for rule in shapes.rules:
        if rule.mbit is not None:
            raise UsageError("--links: link.mbit: with --wan netns bandwidth is a node's, see uplink_mbit")
        if rule.congestion:
            raise UsageError("--links: link.congestion: with --wan netns one holds for all nodes, see --congestion")
        path = _member(rule.origin), _member(rule.target)
        usual_s = shapes.default.latency_ms / 1e3 + sum(access[end].latency_s for end in path if end in access)
        delays[path] = PathDelay(
            usual_s if rule.latency_ms is None else rule.latency_ms / 1e3,
            (shapes.default.jitter_ms if rule.jitter_ms is None else rule.jitter_ms) / 1e3,
        )
    return Differences(access, delays)


def _member(name: str | int) -> int:
    found = _NODE.fullmatch(str(name))
    if found is None:
        raise UsageError(f"--links: {name!r} is no node's name, which --wan netns needs: node-1, node-2, ...")
    return int(found[1])
