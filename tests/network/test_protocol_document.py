"""docs/protocol.md lists every message, field, type and limit; this is what keeps it true.

`python tests/network/test_protocol_document.py` writes the tables anew between the document's markers.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from deserve_network.audit_messages import AUDIT
from deserve_network.control_messages import CONTROL
from deserve_network.framing import Kind
from deserve_network.link_messages import LINK
from deserve_network.ring_messages import RING
from deserve_network.schema import Max, Min, Table, default_limit

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def _describe(annotation: Any, limit: int | None = None, least: int | None = None) -> tuple[str, str]:
    """Type and limit of a field as the document words them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *notes = get_args(annotation)
        most, least = (next((n.limit for n in notes if isinstance(n, kind)), None) for kind in (Max, Min))
        return _describe(inner, most, least)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [item for item in get_args(annotation) if item is not type(None)]
        name, most = _describe(inner, limit, least)
        return f"{name} or nil", most
    if origin is tuple:
        item, item_most = _describe(get_args(annotation)[0])
        most = f"{default_limit(tuple) if limit is None else limit} items"
        return f"list of {item}", f"{most} of {item_most}" if item_most and item != "int" else most
    if dataclasses.is_dataclass(annotation):
        return annotation.__name__, ""
    most = default_limit(annotation) if limit is None else limit
    size = (
        f"{most} bytes" if least is None else f"exactly {most} bytes" if least == most else f"{least} to {most} bytes"
    )
    words = {str: f"{most} characters", bytes: size, int: _range(most, least)}
    return annotation.__name__, words.get(annotation, "finite" if annotation is float else "")


def _range(most: int, least: int | None) -> str:
    if most >= 2**64:
        return f"{most.bit_length()}-bit amount, 16 bytes"
    if least is not None:
        return f"{least} to {most}" if most < 2**63 - 1 else f"{least} to 64-bit"
    return "64-bit" if most >= 2**63 - 1 else f"±{most}"


def _nested(kind: type) -> list[type]:
    """Dataclasses inside a message, depth first."""
    found: list[type] = []

    def walk(annotation: Any) -> None:
        for item in get_args(annotation):
            walk(item)
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            found.extend([annotation, *_nested(annotation)])

    for annotation in typing.get_type_hints(kind, include_extras=True).values():
        walk(annotation)
    return found


def _fields(kind: type) -> list[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = ["| field | type | limit | default |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        name, most = _describe(hints[field.name])
        rows.append(f"| `{field.name}` | {name} | {most} | {_default(field.default)} |")
    return rows


def _default(value: object) -> str:
    if value is dataclasses.MISSING:
        return ""
    return "nil" if value is None else "empty" if value == () else json.dumps(value)


def tables(table: Table) -> str:
    lines = [f"At most {table.max_bytes} bytes a message.", ""]
    inner: dict[type, None] = {}
    for tag, kind in table.messages.items():
        lines += [f"**{tag} {kind.__name__}**", "", *_fields(kind), ""]
        inner.update(dict.fromkeys(_nested(kind)))
    for kind in inner:
        if kind not in table.messages.values():
            lines += [f"*{kind.__name__}* (inside others)", "", *_fields(kind), ""]
    return "\n".join(lines).strip()


def sections() -> dict[str, str]:
    return {table.name: tables(table) for table in (LINK, RING, CONTROL, AUDIT)}


def _section(name: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- {name}: begin -->\n)(.*?)(\n<!-- {name}: end -->)", re.DOTALL)


def test_the_document_lists_every_message_field_and_limit() -> None:
    text = DOCUMENT.read_text()
    for name, expected in sections().items():
        match = _section(name).search(text)
        assert match is not None, name
        assert match[2] == expected, f"run python {Path(__file__).name}: the tables of {name} are out of date"


def test_the_document_names_every_kind_of_frame() -> None:
    text = DOCUMENT.read_text()
    for kind in Kind:
        assert f"| {kind.value} | {kind.name} |" in text


if __name__ == "__main__":
    document = DOCUMENT.read_text()
    for section, content in sections().items():
        document = _section(section).sub(lambda match, new=content: match[1] + new + match[3], document)  # type: ignore[misc]
    DOCUMENT.write_text(document)
