"""Messages as frozen dataclasses with explicit integer tags, on the wire as msgpack arrays.

A protocol is one `Table`: a list of (tag, dataclass). A message travels as `[tag, field, field, ...]` in the
order of its fields; what a field becomes is in `field_codec`. Decoding checks types and limits before it builds
anything, so that a stranger's bytes cannot become a surprising object. Tensors never pass through here: they follow the
encoded header as raw bytes (see `framing`).
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

from deserve_network.errors import SchemaError
from deserve_network.field_codec import DEFAULT_MAX, Max, Min, decode_fields, encode_fields

__all__ = ["Max", "Min", "SchemaError", "Table", "default_limit"]


def default_limit(kind: type) -> int:
    """The limit of a str, bytes, tuple or int field that names none; 0 where the type has no limit."""
    return DEFAULT_MAX.get(kind, 0)


class Table:
    """The messages of one protocol by tag.

    Raises `SchemaError` from `encode` for a class outside the table or a header over `max_bytes`, and from
    `decode` for anything that is not exactly one message of the table within its limits.
    """

    def __init__(self, name: str, messages: dict[int, type], *, max_bytes: int) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self._by_tag = dict(messages)
        self._tag_of = {kind: tag for tag, kind in messages.items()}
        if len(self._tag_of) != len(self._by_tag):
            raise TypeError(f"{name}: a message has two tags")

    @property
    def messages(self) -> dict[int, type]:
        """Classes by tag."""
        return dict(self._by_tag)

    def encode(self, message: object) -> bytes:
        tag = self._tag_of.get(type(message))
        if tag is None:
            raise SchemaError(f"{type(message).__name__} is no message of {self.name}")
        data: bytes = msgpack.packb([tag, *encode_fields(type(message), message)])
        if len(data) > self.max_bytes:
            raise SchemaError(f"{type(message).__name__}: {len(data)} bytes, at most {self.max_bytes}")
        return data

    def decode(self, data: bytes | bytearray | memoryview) -> Any:
        if len(data) > self.max_bytes:
            raise SchemaError(f"{self.name}: {len(data)} bytes, at most {self.max_bytes}")
        try:
            value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0, max_map_len=0)
        except (ValueError, msgpack.exceptions.UnpackException, UnicodeDecodeError, RecursionError) as error:
            raise SchemaError(f"{self.name}: not msgpack: {error}") from error
        if not isinstance(value, list) or not value or type(value[0]) is not int:
            raise SchemaError(f"{self.name}: expected [tag, ...]")
        kind = self._by_tag.get(value[0])
        if kind is None:
            raise SchemaError(f"{self.name}: unknown tag {value[0]}")
        return decode_fields(kind, value[1:], kind.__name__)
