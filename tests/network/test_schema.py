from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.schema import Max, SchemaError, Table


@dataclass(frozen=True, slots=True)
class Inner:
    number: int


@dataclass(frozen=True, slots=True)
class Outer:
    name: Annotated[str, Max(8)]
    share: float
    inner: Annotated[tuple[Inner, ...], Max(3)]
    data: Annotated[bytes, Max(4)] = b""
    maybe: int | None = None


TABLE = Table("test", {1: Outer, 2: Inner}, max_bytes=100)

outers = st.builds(
    Outer,
    st.text(max_size=8).filter(lambda text: len(text.encode()) < 30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.builds(Inner, st.integers(-(2**63) + 1, 2**63 - 1)), max_size=3).map(tuple),
    st.binary(max_size=4),
    st.none() | st.integers(0, 100),
)


@given(outers)
def test_a_message_survives_the_wire(message: Outer) -> None:
    assert TABLE.decode(TABLE.encode(message)) == message


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_message_or_a_schema_error(data: bytes) -> None:
    try:
        message = TABLE.decode(data)
    except SchemaError:
        return
    assert type(message) in (Outer, Inner)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "much too long", 0.0, [], b"", None], "Outer.name: 13 long, at most 8"),
        ([1, "n", 0.0, [[1]] * 4, b"", None], "Outer.inner: 4 items, at most 3"),
        ([1, "n", 0.0, [["one"]], b"", None], "Outer.inner.number: expected int, got str"),
        ([1, "n", float("nan"), [], b"", None], "Outer.share: not a finite number"),
        ([1, "n", 0.0, [], "text", None], "Outer.data: expected bytes, got str"),
        ([1, "n", 0.0, [], b"", True], "Outer.maybe: expected int, got bool"),
        ([1, "n"], "expected 5 fields of Outer"),
        ([2, 2**64 - 1], "Inner.number: 18446744073709551615 exceeds"),
        ([9, 1], "unknown tag 9"),
        ([], r"expected \[tag"),
        ({1: 2}, "not msgpack"),
    ],
)
def test_what_is_wrong_is_named(value: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        TABLE.decode(msgpack.packb(value))


def test_an_oversized_message_is_refused_on_both_sides() -> None:
    with pytest.raises(SchemaError, match="at most 100"):
        TABLE.decode(bytes(101))
    with pytest.raises(SchemaError, match="at most 3"):
        Table("tiny", {2: Inner}, max_bytes=3).encode(Inner(1 << 40))


def test_a_class_outside_the_table_is_refused() -> None:
    with pytest.raises(SchemaError, match="str is no message of test"):
        TABLE.encode("text")
