"""Messages as frozen dataclasses with explicit integer tags, on the wire as msgpack arrays.

A protocol is one `Table`: a list of (tag, dataclass). A message travels as `[tag, field, field, ...]` in the
order of its fields; nested dataclasses and tuples travel as arrays. Decoding checks types and limits before it
builds anything, so that a stranger's bytes cannot become a surprising object. Tensors never pass through here:
they follow the encoded header as raw bytes (see `framing`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgpack  # type: ignore[import-untyped]

from deserve_network.errors import SchemaError

__all__ = ["Max", "SchemaError", "Table", "default_limit"]


@dataclass(frozen=True)
class Max:
    """Upper limit of a field: characters of a str, bytes of a bytes, items of a tuple, magnitude of an int."""

    limit: int


_DEFAULT_MAX: dict[object, int] = {str: 1024, bytes: 4096, tuple: 4096, int: 2**63 - 1}


def default_limit(kind: type) -> int:
    """The limit of a str, bytes, tuple or int field that names none; 0 where the type has no limit."""
    return _DEFAULT_MAX.get(kind, 0)


Decoder = Callable[[Any, str], Any]
Encoder = Callable[[Any], Any]


def _identity(value: Any) -> Any:
    return value


def _scalar_decoder(kind: type, limit: int) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        if kind is float and type(value) is int:
            value = float(value)
        found: Any = type(value)
        if found is not kind:
            raise SchemaError(f"{where}: expected {kind.__name__}, got {found.__name__}")
        if kind is int and abs(value) > limit:
            raise SchemaError(f"{where}: {value} exceeds {limit}")
        if kind is float and not math.isfinite(value):
            raise SchemaError(f"{where}: not a finite number")
        if kind in (str, bytes) and len(value) > limit:
            raise SchemaError(f"{where}: {len(value)} long, at most {limit}")
        return value

    return decode


def _compile(annotation: Any, limit: int | None = None) -> tuple[Encoder, Decoder]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *notes = get_args(annotation)
        limits = [note.limit for note in notes if isinstance(note, Max)]
        return _compile(inner, limits[0] if limits else None)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [a for a in get_args(annotation) if a is not type(None)]
        encode_inner, decode_inner = _compile(inner, limit)
        return (
            lambda value: None if value is None else encode_inner(value),
            lambda value, where: None if value is None else decode_inner(value, where),
        )
    if origin is tuple:
        item, _ = get_args(annotation)
        encode_item, decode_item = _compile(item)
        most = _DEFAULT_MAX[tuple] if limit is None else limit

        def decode_tuple(value: Any, where: str) -> Any:
            if not isinstance(value, list):
                raise SchemaError(f"{where}: expected a list, got {type(value).__name__}")
            if len(value) > most:
                raise SchemaError(f"{where}: {len(value)} items, at most {most}")
            return tuple(decode_item(v, where) for v in value)

        return (list if encode_item is _identity else lambda value: [encode_item(v) for v in value]), decode_tuple
    if dataclasses.is_dataclass(annotation):
        assert isinstance(annotation, type)
        return functools.partial(_encode_fields, annotation), functools.partial(_decode_fields, annotation)
    if annotation in (int, float, str, bytes, bool):
        return _identity, _scalar_decoder(annotation, _DEFAULT_MAX.get(annotation, 0) if limit is None else limit)
    raise TypeError(f"{annotation!r} cannot be a message field")


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, Encoder, Decoder], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple((f.name, *_compile(hints[f.name])) for f in dataclasses.fields(kind))


def _encode_fields(kind: type, value: Any) -> list[Any]:
    if value.__class__ is not kind:
        raise SchemaError(f"expected {kind.__name__}, got {value.__class__.__name__}")
    return [encode(getattr(value, name)) for name, encode, _ in _fields(kind)]


def _decode_fields(kind: type, value: Any, where: str) -> Any:
    fields = _fields(kind)
    if not isinstance(value, list) or len(value) != len(fields):
        raise SchemaError(f"{where}: expected {len(fields)} fields of {kind.__name__}")
    return kind(*[decode(v, f"{where}.{name}") for (name, _, decode), v in zip(fields, value, strict=True)])


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
        data: bytes = msgpack.packb([tag, *_encode_fields(type(message), message)])
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
        return _decode_fields(kind, value[1:], kind.__name__)
