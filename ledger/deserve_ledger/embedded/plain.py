"""Records, events and the state as JSON values and back: for HTTP and for snapshots, never for what is signed.

Bytes are hex strings, a map is a list of pairs, a record the list of its fields' values.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from rpds import HashTrieMap

from deserve_ledger.errors import InvalidField

__all__ = ["from_plain", "to_plain"]


def to_plain(value: Any) -> Any:
    """Something that `json` can write, from which `from_plain` makes the value again."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return [[to_plain(key), to_plain(item)] for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if is_dataclass(value):
        return [to_plain(getattr(value, field.name)) for field in fields(value)]
    return value


@functools.lru_cache(maxsize=64)
def _field_types(kind: Any) -> tuple[Any, ...]:
    # `HashTrieMap` cannot be subscripted at run time; where it is annotated, a Mapping is found.
    hints = get_type_hints(kind, localns={"HashTrieMap": Mapping})
    return tuple(hints[field.name] for field in fields(kind))


def from_plain(kind: Any, plain: Any) -> Any:
    """A value of type `kind`. Raises `InvalidField` where `plain` has another shape."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        if plain is None and types.NoneType in arguments:
            return None
        options = [option for option in arguments if option is not types.NoneType]
        told_apart = {str: bytes}.get(type(plain), type(plain))
        return from_plain(told_apart if told_apart in options else options[0], plain)
    if kind is bytes and isinstance(plain, str):
        try:
            return bytes.fromhex(plain)
        except ValueError as error:
            raise InvalidField("bytes", f"{plain[:80]!r} is not hex") from error
    if kind in (int, bool, str) and type(plain) is kind:
        return plain
    if isinstance(plain, list):
        if origin in (Mapping, dict) and all(isinstance(pair, list) and len(pair) == 2 for pair in plain):
            key, item = arguments
            pairs = [(from_plain(key, one), from_plain(item, other)) for one, other in plain]
            return dict(pairs) if origin is dict else HashTrieMap(pairs)
        if origin is tuple and arguments[-1] is ...:
            return tuple(from_plain(arguments[0], item) for item in plain)
        is_record = isinstance(kind, type) and is_dataclass(kind)
        parts = _field_types(kind) if is_record else arguments if origin is tuple else None
        if parts is not None and len(parts) == len(plain):
            values = [from_plain(part, item) for part, item in zip(parts, plain, strict=True)]
            return tuple(values) if origin is tuple else kind(*values)
    raise InvalidField(getattr(kind, "__name__", str(kind)), f"{str(plain)[:80]!r} has another shape")
