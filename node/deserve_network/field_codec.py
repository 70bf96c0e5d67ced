"""How the fields of messages become msgpack values and are checked on their way back; `schema` makes messages of them.

A dataclass is the array of its fields. A tuple of dataclasses is transposed: an array of columns, one for each field,
so that a step of hundreds of chunks is checked by a few passes over flat lists of integers. A column of nothing but its
default is nil, the first one excepted. Every check comes before what it protects is built, and what a fast pass cannot
vouch for is decoded item by item, which finds the words for what is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from deserve_network.errors import SchemaError

__all__ = ["DEFAULT_MAX", "FieldCodec", "Max", "Min", "decode_fields", "encode_fields"]


@dataclass(frozen=True)
class Max:
    """Upper limit of a field: characters of a str, bytes of a bytes, items of a tuple, magnitude of an int.

    An int with a limit that 64 bits do not hold is an amount of money: not negative, 16 bytes on the wire, big-endian.
    """

    limit: int


@dataclass(frozen=True)
class Min:
    """Lower limit of an int, where there is none its upper one negated; or the least number of bytes of a bytes."""

    limit: int


DEFAULT_MAX: dict[object, int] = {str: 1024, bytes: 4096, tuple: 4096, int: 2**63 - 1}
_REQUIRED = object()
_AMOUNT_BYTES = 16


@dataclass(frozen=True, slots=True)
class FieldCodec:
    """Of one type: a value, and a column of values. `where` names the field for `SchemaError`."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any, str], Any]
    encode_column: Callable[[Sequence[Any]], Sequence[Any]]
    decode_column: Callable[[list[Any], str], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    default: Any
    codec: FieldCodec


def encode_fields(kind: type, value: Any) -> list[Any]:
    """A dataclass as the array of its fields. Raises `SchemaError` where `value` is none of `kind`."""
    if value.__class__ is not kind:
        raise SchemaError(f"expected {kind.__name__}, got {value.__class__.__name__}")
    return [field.codec.encode(getattr(value, field.name)) for field in _fields(kind)]


def decode_fields(kind: type, value: Any, where: str) -> Any:
    """The way back. Raises `SchemaError` for anything that is not exactly such an array within its limits."""
    fields = _fields(kind)
    if not isinstance(value, list) or len(value) != len(fields):
        raise SchemaError(f"{where}: expected {len(fields)} fields of {kind.__name__}")
    return kind(*[f.codec.decode(item, f"{where}.{f.name}") for f, item in zip(fields, value, strict=True)])


@functools.cache
def _fields(kind: type) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(
        _Field(f.name, _REQUIRED if f.default is dataclasses.MISSING else f.default, _codec_of(hints[f.name]))
        for f in dataclasses.fields(kind)
    )


def _codec_of(annotation: Any, limit: int | None = None, least: int | None = None) -> FieldCodec:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *notes = get_args(annotation)
        most = next((note.limit for note in notes if isinstance(note, Max)), None)
        return _codec_of(inner, most, next((note.limit for note in notes if isinstance(note, Min)), None))
    if origin in (typing.Union, types.UnionType):
        (inner,) = [a for a in get_args(annotation) if a is not type(None)]
        return _optional(_codec_of(inner, limit, least))
    if origin is tuple:
        item, _ = get_args(annotation)
        most = DEFAULT_MAX[tuple] if limit is None else limit
        return _tuple_of_dataclasses(item, most) if dataclasses.is_dataclass(item) else _tuple(_codec_of(item), most)
    if dataclasses.is_dataclass(annotation):
        assert isinstance(annotation, type)
        encode, decode = functools.partial(encode_fields, annotation), functools.partial(decode_fields, annotation)
        return _one_by_one(encode, decode)
    if annotation in (int, float, str, bytes, bool):
        most = DEFAULT_MAX.get(annotation, 0) if limit is None else limit
        if annotation is int and most >= 2**64:
            return _amount(most)
        return _scalar(annotation, most, -most if least is None else least)
    raise TypeError(f"{annotation!r} cannot be a message field")


def _one_by_one(encode: Callable[[Any], Any], decode: Callable[[Any, str], Any]) -> FieldCodec:
    return FieldCodec(
        encode,
        decode,
        lambda column: [encode(value) for value in column],
        lambda column, where: [decode(value, where) for value in column],
    )


def _scalar(kind: type, limit: int, least: int) -> FieldCodec:
    def decode(value: Any, where: str) -> Any:
        if kind is float and type(value) is int:
            value = float(value)
        found: Any = type(value)
        if found is not kind:
            raise SchemaError(f"{where}: expected {kind.__name__}, got {found.__name__}")
        if kind is int and not least <= value <= limit:
            raise SchemaError(
                f"{where}: {value} exceeds {limit}" if value > limit else f"{where}: {value} is below {least}"
            )
        if kind is float and not math.isfinite(value):
            raise SchemaError(f"{where}: not a finite number")
        if kind in (str, bytes) and len(value) > limit:
            raise SchemaError(f"{where}: {len(value)} long, at most {limit}")
        if kind is bytes and len(value) < least:
            raise SchemaError(f"{where}: {len(value)} long, at least {least}")
        return value

    def sound(column: list[Any]) -> bool:
        if kind is int:
            return bool(max(column) <= limit and min(column) >= least)
        if kind is float:
            return all(map(math.isfinite, column))
        return kind is bool or (max(map(len, column)) <= limit and min(map(len, column)) >= least)

    def decode_column(column: list[Any], where: str) -> Sequence[Any]:
        if set(map(type, column)) == {kind} and sound(column):
            return column
        return [decode(value, where) for value in column]

    return FieldCodec(_identity, decode, _identity, decode_column)


def _amount(limit: int) -> FieldCodec:
    def encode(value: Any) -> bytes:
        if type(value) is not int or not 0 <= value <= limit:
            raise SchemaError(f"expected an amount from 0 to {limit}, got {value!r}")
        return value.to_bytes(_AMOUNT_BYTES, "big")

    def decode(value: Any, where: str) -> int:
        if type(value) is not bytes or len(value) != _AMOUNT_BYTES:
            raise SchemaError(f"{where}: expected an amount, {_AMOUNT_BYTES} bytes")
        amount = int.from_bytes(value, "big")
        if amount > limit:
            raise SchemaError(f"{where}: {amount} exceeds {limit}")
        return amount

    return _one_by_one(encode, decode)


def _optional(inner: FieldCodec) -> FieldCodec:
    def encode(value: Any) -> Any:
        return None if value is None else inner.encode(value)

    def decode(value: Any, where: str) -> Any:
        return None if value is None else inner.decode(value, where)

    def encode_column(column: Sequence[Any]) -> Sequence[Any]:
        return [encode(value) for value in column] if None in column else inner.encode_column(column)

    def decode_column(column: list[Any], where: str) -> Sequence[Any]:
        return [decode(value, where) for value in column] if None in column else inner.decode_column(column, where)

    return FieldCodec(encode, decode, encode_column, decode_column)


def _tuple(item: FieldCodec, most: int) -> FieldCodec:
    def decode(value: Any, where: str) -> Any:
        _check_list(value, most, where)
        return tuple(item.decode_column(value, where)) if value else ()

    return _one_by_one(lambda value: item.encode_column(value), decode)


def _tuple_of_dataclasses(kind: Any, most: int) -> FieldCodec:
    def encode(value: Any) -> Any:
        if not value:
            return ()
        if set(map(type, value)) != {kind}:
            wrong = next(item for item in value if type(item) is not kind)
            raise SchemaError(f"expected {kind.__name__}, got {type(wrong).__name__}")
        return [_encode_column(number, field, value) for number, field in enumerate(_fields(kind))]

    def decode(value: Any, where: str) -> Any:
        if value == []:
            return ()
        fields = _fields(kind)
        if not isinstance(value, list) or len(value) != len(fields):
            raise SchemaError(f"{where}: expected {len(fields)} columns of {kind.__name__}")
        _check_list(value[0], most, where)
        if not value[0]:
            raise SchemaError(f"{where}: columns without items")
        count = len(value[0])
        columns = [_decode_column(f, column, count, where) for f, column in zip(fields, value, strict=True)]
        return tuple(map(kind, *columns))

    return _one_by_one(encode, decode)


def _encode_column(number: int, field: _Field, items: Sequence[Any]) -> Sequence[Any] | None:
    column = list(map(operator.attrgetter(field.name), items))
    # A float's default would take the sign of a negative zero away.
    if number and type(field.default) is not float and column.count(field.default) == len(column):
        return None
    return field.codec.encode_column(column)


def _decode_column(field: _Field, column: Any, count: int, where: str) -> Sequence[Any]:
    if column is None and field.default is not _REQUIRED:
        return [field.default] * count
    _check_list(column, count, f"{where}.{field.name}")
    if len(column) != count:
        raise SchemaError(f"{where}.{field.name}: {len(column)} values for {count} items")
    return field.codec.decode_column(column, f"{where}.{field.name}")


def _check_list(value: Any, most: int, where: str) -> None:
    if not isinstance(value, list):
        raise SchemaError(f"{where}: expected a list, got {type(value).__name__}")
    if len(value) > most:
        raise SchemaError(f"{where}: {len(value)} items, at most {most}")


def _identity(value: Any) -> Any:
    return value
