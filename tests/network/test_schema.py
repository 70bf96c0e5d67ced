from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.schema import Max, Min, SchemaError, Table


@dataclass(frozen=True, slots=True)
class Inner:
    number: int
    weight: float = 1.0
    names: Annotated[tuple[Annotated[str, Max(5)], ...], Max(2)] = ()
    maybe: int | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    name: Annotated[str, Max(8)]
    share: float
    inner: Annotated[tuple[Inner, ...], Max(3)]
    data: Annotated[bytes, Max(4)] = b""
    maybe: int | None = None


@dataclass(frozen=True, slots=True)
class Bounded:
    port: Annotated[int, Min(1), Max(65535)]
    ports: Annotated[tuple[Annotated[int, Min(1), Max(65535)], ...], Max(3)] = ()


@dataclass(frozen=True, slots=True)
class Owed:
    amount: Annotated[int, Max(2**128 - 1)]
    key: Annotated[bytes, Min(4), Max(4)]
    keys: Annotated[tuple[Annotated[bytes, Min(2), Max(4)], ...], Max(3)] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Debts:
    owed: Annotated[tuple[Owed, ...], Max(3)]


TABLE = Table("test", {1: Outer, 2: Inner, 3: Bounded, 4: Owed, 5: Debts}, max_bytes=400)

inners = st.builds(
    Inner,
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.sampled_from([1.0, 0.0, -0.0]) | st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.none() | st.integers(-9, 9),
)
outers = st.builds(
    Outer,
    st.text(max_size=8).filter(lambda text: len(text.encode()) < 30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(inners, max_size=3).map(tuple),
    st.binary(max_size=4),
    st.none() | st.integers(0, 100),
)


@given(outers)
def test_a_message_survives_the_wire(message: Outer) -> None:
    assert repr(TABLE.decode(TABLE.encode(message))) == repr(message)  # tells -0.0 from 0.0


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_a_message_or_a_schema_error(data: bytes) -> None:
    try:
        message = TABLE.decode(data)
    except SchemaError:
        return
    assert type(message) in (Outer, Inner, Bounded, Owed, Debts)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "much too long", 0.0, [], b"", None], "Outer.name: 13 long, at most 8"),
        ([1, "n", 0.0, [[1] * 4, None, None, None], b"", None], "Outer.inner: 4 items, at most 3"),
        ([1, "n", 0.0, [[1, "one"], None, None, None], b"", None], "Outer.inner.number: expected int, got str"),
        ([1, "n", 0.0, [[1, True], None, None, None], b"", None], "Outer.inner.number: expected int, got bool"),
        ([1, "n", 0.0, [[1, 2**63], None, None, None], b"", None], "Outer.inner.number: 9223372036854775808 exceeds"),
        ([1, "n", 0.0, [[1, 2], [0.5, math.inf], None, None], b"", None], "Outer.inner.weight: not a finite"),
        ([1, "n", 0.0, [[1], None, [["a", "much too long"]], None], b"", None], "Outer.inner.names: 13 long, at most"),
        ([1, "n", 0.0, [[1], None, [["a"] * 3], None], b"", None], "Outer.inner.names: 3 items, at most 2"),
        ([1, "n", 0.0, [[1, 2], [0.5], None, None], b"", None], "Outer.inner.weight: 1 values for 2 items"),
        ([1, "n", 0.0, [[1, 2], [0.5] * 3, None, None], b"", None], "Outer.inner.weight: 3 items, at most 2"),
        ([1, "n", 0.0, [None, None, None, None], b"", None], "Outer.inner: expected a list, got NoneType"),
        ([1, "n", 0.0, [[], None, None, None], b"", None], "Outer.inner: columns without items"),
        ([1, "n", 0.0, [[1]], b"", None], "Outer.inner: expected 4 columns of Inner"),
        ([1, "n", 0.0, None, b"", None], "Outer.inner: expected 4 columns of Inner"),
        ([1, "n", float("nan"), [], b"", None], "Outer.share: not a finite number"),
        ([1, "n", 0.0, [], "text", None], "Outer.data: expected bytes, got str"),
        ([1, "n", 0.0, [], b"", True], "Outer.maybe: expected int, got bool"),
        ([1, "n"], "expected 5 fields of Outer"),
        ([2, 2**64 - 1, 0.5, [], 0], "Inner.number: 18446744073709551615 exceeds"),
        ([3, 0, []], "Bounded.port: 0 is below 1"),
        ([3, 65536, []], "Bounded.port: 65536 exceeds 65535"),
        ([3, 1, [65535, 0]], "Bounded.ports: 0 is below 1"),
        ([9, 1], "unknown tag 9"),
        ([], r"expected \[tag"),
        ({1: 2}, "not msgpack"),
    ],
)
def test_what_is_wrong_is_named(value: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        TABLE.decode(msgpack.packb(value))


JSON = st.recursive(  # what msgpack can spell
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=4),
)


@given(st.lists(JSON, min_size=4, max_size=4) | JSON)
def test_whatever_stands_where_columns_belong_is_items_or_a_schema_error(columns: object) -> None:
    try:
        message = TABLE.decode(msgpack.packb([1, "n", 0.0, columns, b"", None]))
    except SchemaError:
        return
    assert all(type(item) is Inner and type(item.number) is int for item in message.inner)
    assert TABLE.decode(TABLE.encode(message)) == message


def test_columns_of_defaults_are_left_out_and_others_are_flat_lists() -> None:
    items = (Inner(7), Inner(8, maybe=3))
    value = msgpack.unpackb(TABLE.encode(Outer("n", 0.5, items)))
    assert value == [1, "n", 0.5, [[7, 8], [1.0, 1.0], None, [None, 3]], b"", None]


def test_an_item_of_another_class_is_refused_before_it_is_sent() -> None:
    with pytest.raises(SchemaError, match="expected Inner, got Outer"):
        TABLE.encode(Outer("n", 0.5, (Inner(7), Outer("m", 0.5, ()))))  # type: ignore[arg-type]


def test_an_oversized_message_is_refused_on_both_sides() -> None:
    with pytest.raises(SchemaError, match="at most 400"):
        TABLE.decode(bytes(401))
    with pytest.raises(SchemaError, match="at most 3"):
        Table("tiny", {2: Inner}, max_bytes=3).encode(Inner(1 << 40))


def test_a_class_outside_the_table_is_refused() -> None:
    with pytest.raises(SchemaError, match="str is no message of test"):
        TABLE.encode("text")


KEYS = st.binary(min_size=2, max_size=4)
OWED = st.builds(
    Owed, st.integers(0, 2**128 - 1), st.binary(min_size=4, max_size=4), st.lists(KEYS, max_size=3).map(tuple)
)


@given(st.lists(OWED, max_size=3))
def test_an_amount_of_money_travels_in_128_bits(owed: list[Owed]) -> None:
    assert TABLE.decode(TABLE.encode(Debts(tuple(owed)))) == Debts(tuple(owed))


AMOUNT = bytes(16)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([4, 5, b"four", [], 0], "Owed.amount: expected an amount"),
        ([4, bytes(15), b"four", [], 0], "Owed.amount: expected an amount"),
        ([4, AMOUNT, b"two", [], 0], "Owed.key: 3 long, at least 4"),
        ([4, AMOUNT, b"four", [b"okay", b"1"], 0], "Owed.keys: 1 long, at least 2"),
        ([5, [[AMOUNT, AMOUNT], [b"four", b"two"], None, None]], "Debts.owed.key: 3 long, at least 4"),
        ([5, [[AMOUNT, 7], [b"four", b"four"], None, None]], "Debts.owed.amount: expected an amount"),
    ],
)
def test_what_is_no_amount_or_too_short_is_named(value: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        TABLE.decode(msgpack.packb(value))


@pytest.mark.parametrize("amount", [-1, 2**128, 1.0, True])
def test_no_amount_is_sent_that_does_not_fit(amount: int) -> None:
    with pytest.raises(SchemaError, match="expected an amount"):
        TABLE.encode(Owed(amount, b"four"))
