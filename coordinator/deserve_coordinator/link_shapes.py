"""The emulated internet between nodes: what each link of a ring is like. Pure; read from TOML.

    [default]              # every link
    latency_ms = 30
    mbit = 100
    [[node]]
    name = "node-3"
    latency_ms = 20        # on top, one way, on each of its links
    uplink_mbit = 10       # bounds what it sends, downlink_mbit what it receives
    [[link]]               # one direction; names of nodes, or places in a ring from 0 at the head
    from = 1
    to = 2
    latency_ms = 120
    congestion = "bbr"     # TCP's at both ends, emulated or not; else each node's --congestion

A link takes its own value, else it goes by its two nodes and the default.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deserve_coordinator.errors import ConfigurationError
from deserve_network.congestion import MOST_NAME
from deserve_network.control_messages import LinkShape

__all__ = ["LinkRule", "LinkShapes", "NodeAccess", "load_link_shapes"]

_MOST = 1e6
_LINK_VALUES = ("latency_ms", "jitter_ms", "mbit")
_NODE_VALUES = ("latency_ms", "uplink_mbit", "downlink_mbit")


@dataclass(frozen=True, slots=True)
class NodeAccess:
    """A node's own line: `latency_ms` on top of any link's; None: as the default has it."""

    latency_ms: float = 0.0
    uplink_mbit: float | None = None
    downlink_mbit: float | None = None


@dataclass(frozen=True, slots=True)
class LinkRule:
    """From and to are names of nodes or places in the ring; None: not set here."""

    origin: str | int
    target: str | int
    latency_ms: float | None = None
    jitter_ms: float | None = None
    mbit: float | None = None
    congestion: str = ""

    def holds(self, origin: tuple[int, str], target: tuple[int, str]) -> bool:
        return self.origin in origin and self.target in target


@dataclass(frozen=True)
class LinkShapes:
    default: LinkShape = field(default_factory=LinkShape)
    nodes: dict[str, NodeAccess] = field(default_factory=dict)
    rules: tuple[LinkRule, ...] = ()

    def around(self, names: Sequence[str]) -> tuple[LinkShape, ...]:
        """For a ring of nodes with these names: from each to the next, and from the tail back to the head."""
        places = list(enumerate(names))
        return tuple(
            self._between(hop, origin, target)
            for hop, (origin, target) in enumerate(zip(places, places[1:] + places[:1], strict=True))
        )

    def _between(self, hop: int, origin: tuple[int, str], target: tuple[int, str]) -> LinkShape:
        near, far = (self.nodes.get(name, NodeAccess()) for _, name in (origin, target))
        bounds = [self.default.mbit if own is None else own for own in (near.uplink_mbit, far.downlink_mbit)]
        shape = dataclasses.replace(
            self.default,
            latency_ms=self.default.latency_ms + near.latency_ms + far.latency_ms,
            mbit=min((bound for bound in bounds if bound), default=0.0),
            seed=self.default.seed + hop,  # or every link would draw the same jitter
        )
        for rule in self.rules:
            if rule.holds(origin, target):
                shape = dataclasses.replace(
                    shape,
                    latency_ms=shape.latency_ms if rule.latency_ms is None else rule.latency_ms,
                    jitter_ms=shape.jitter_ms if rule.jitter_ms is None else rule.jitter_ms,
                    mbit=shape.mbit if rule.mbit is None else rule.mbit,
                    congestion=rule.congestion or shape.congestion,
                )
        return shape


def load_link_shapes(path: Path, default: LinkShape) -> LinkShapes:
    """Read `path`; `default` holds for what it does not say. Raises `ConfigurationError` naming file and key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"--links {path}: {error}") from error
    where = f"--links {path}"
    if unknown := sorted(values.keys() - {"default", "node", "link"}):
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}")
    own = _numbers(values.get("default", {}), f"{where}: default", _LINK_VALUES, ())
    nodes: dict[str, NodeAccess] = {}
    for number, table in enumerate(_tables(values, "node", where)):
        named = f"{where}: node[{number}]"
        found = _numbers(table, named, _NODE_VALUES, ("name",))
        name = table.get("name")
        if not isinstance(name, str) or not name or name in nodes:
            raise ConfigurationError(f"{named}.name: {name!r} is not the name of a node that was not named before")
        nodes[name] = NodeAccess(**found)
    rules = []
    for number, table in enumerate(_tables(values, "link", where)):
        named = f"{where}: link[{number}]"
        found = _numbers(table, named, _LINK_VALUES, ("from", "to", "congestion"))
        for end in ("from", "to"):
            value = table.get(end)
            if type(value) not in (str, int) or (type(value) is int and value < 0):
                raise ConfigurationError(f"{named}.{end}: {value!r} is no node's name and no place in a ring")
        congestion = table.get("congestion", "")
        if not isinstance(congestion, str) or len(congestion) > MOST_NAME:
            raise ConfigurationError(f"{named}.congestion: {congestion!r} is no name of a congestion control")
        rules.append(LinkRule(table["from"], table["to"], **found, congestion=congestion))
    usual = {key: own.get(key, getattr(default, key)) for key in _LINK_VALUES}
    return LinkShapes(LinkShape(**usual, seed=default.seed), nodes, tuple(rules))


def _tables(values: dict[str, Any], key: str, where: str) -> list[Any]:
    found = values.get(key, [])
    if not isinstance(found, list):
        raise ConfigurationError(f"{where}: {key} must be tables, written [[{key}]]")
    return found


def _numbers(table: object, where: str, keys: Sequence[str], others: Sequence[str]) -> dict[str, float]:
    """The values of `keys` that `table` has. Raises `ConfigurationError`, also for a key that is not in `others`."""
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} is no table")
    found = {}
    for key, value in table.items():
        if key in others:
            continue
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
            raise ConfigurationError(f"{where}.{key}: {value!r} is not a number from 0 to {_MOST:g}")
        found[key] = float(value)
    return found
