"""The file of nodes and links that `deserve plan` reads, TOML:

    [defaults]                      # keys of every node that does not set them
    tflops = 50.0
    memory_gb_per_s = 250.0

    [link]                          # every link
    latency_ms = 30.0

    [[nodes]]                       # in the order of the ring
    name = "lab"
    memory_gib = 24.0

    [[links]]                       # one link, where it differs
    from = "lab"
    to = "home"
    mbit = 20.0

The keys are the fields of `paper.PaperNode` and `paper.PaperLink`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deserve_plan.paper import PaperError, PaperLink, PaperNode

__all__ = ["PaperFile", "read_paper_file"]

MOST_NODES = 256
_WHOLE = {"page_tokens": 1, "cores": 1, "threads": 1, "layers": 0}
"""Keys that are whole numbers, and the least they may be."""


@dataclass(frozen=True, slots=True)
class PaperFile:
    nodes: tuple[PaperNode, ...]
    links: tuple[PaperLink, ...]
    """From each node to the next, from the last to the first."""


def read_paper_file(path: Path, *, costs: bool = True) -> PaperFile:
    """Read `path`. Raises `PaperError` naming file and key.

    `costs`: whether nodes must say what they hold and what a step costs them; a stage profile says it elsewhere.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PaperError(f"{path}: {error}") from error
    for key in values:
        if key not in ("defaults", "link", "nodes", "links"):
            raise PaperError(f"{path}: unknown key {key!r}")
    defaults = _table(values.get("defaults", {}), PaperNode, f"{path}: defaults")
    if "name" in defaults:
        raise PaperError(f"{path}: defaults.name: every node has its own name")
    nodes = [
        _node(defaults, table, f"{path}: nodes[{number}]", costs)
        for number, table in enumerate(_tables(values, "nodes", path))
    ]
    if not 1 <= len(nodes) <= MOST_NODES:
        raise PaperError(f"{path}: nodes: {len(nodes)}, there must be from 1 to {MOST_NODES}")
    names = [node.name for node in nodes]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise PaperError(f"{path}: nodes[{number}].name: {name!r} is the name of another node")
    common = PaperLink(**_table(values.get("link", {}), PaperLink, f"{path}: link"))
    links = {names[i]: common for i in range(len(names))}
    for number, table in enumerate(_tables(values, "links", path)):
        where = f"{path}: links[{number}]"
        start = _end(table, "from", names, where)
        following = names[(names.index(start) + 1) % len(names)]
        if _end(table, "to", names, where) != following:
            raise PaperError(f"{where}.to: in this ring {start} sends to {following}")
        changes = {key: value for key, value in table.items() if key not in ("from", "to")}
        shape = {field.name: getattr(common, field.name) for field in fields(PaperLink)}
        links[start] = PaperLink(**{**shape, **_table(changes, PaperLink, where)})
    return PaperFile(tuple(nodes), tuple(links[name] for name in names))


def _node(defaults: Mapping[str, Any], table: Mapping[str, Any], where: str, costs: bool) -> PaperNode:
    values = {**defaults, **_table(table, PaperNode, where)}
    if not values.get("name"):
        raise PaperError(f"{where}.name is missing")
    node = PaperNode(**values)
    if not costs:
        return node
    if not node.memory_gib:
        raise PaperError(f"{where}.memory_gib is missing")
    if node.tflops and (node.fixed_ms or node.token_ms):
        raise PaperError(f"{where}.tflops: give either a device's speed or a layer's times (fixed_ms, token_ms)")
    if not node.tflops and not (node.fixed_ms or node.token_ms):
        raise PaperError(f"{where}: needs tflops and memory_gb_per_s, or fixed_ms and token_ms of a layer")
    if node.tflops and not node.memory_gb_per_s:
        raise PaperError(f"{where}.memory_gb_per_s is missing")
    return node


def _tables(values: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    tables = values.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PaperError(f"{path}: {key} must be tables, written [[{key}]]")
    return tables


def _end(table: Mapping[str, Any], key: str, names: list[str], where: str) -> str:
    name = table.get(key)
    if name not in names:
        raise PaperError(f"{where}.{key}: {name!r} is not the name of a node")
    return str(name)


def _table(table: object, kind: type, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise PaperError(f"{where} is no table")
    kinds = {field.name: str(field.type) for field in fields(kind)}
    return {key: _checked(kinds.get(key), key, value, where) for key, value in table.items()}


def _checked(kind: str | None, key: str, value: object, where: str) -> object:
    if kind is None:
        raise PaperError(f"{where}: unknown key {key!r}")
    if kind == "str":
        if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
            raise PaperError(f"{where}.{key}: {value!r} is no name of 1 to 64 characters")
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise PaperError(f"{where}.{key}: {value!r} is neither true nor false")
        return value
    if kind == "int":
        least = _WHOLE[key]
        if type(value) is not int or not least <= value < 1 << 20:
            raise PaperError(f"{where}.{key}: {value!r} is not a whole number of at least {least}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1e-9 <= value < 1e9):
        raise PaperError(f"{where}.{key}: {value!r} is not a number from 1e-9 to 1e9, nor 0")
    return float(value)
