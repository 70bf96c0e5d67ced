from __future__ import annotations

import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.errors import ProtocolError, StreamClosed
from deserve_network.framing import PREAMBLE_BYTES, PROBE_BYTES, Kind, Limits, Preamble, byte_views, read_frame

LIMITS = Limits(header_bytes=1000, payload_bytes=2000)


class Recorded:
    """A stream that ends after the given bytes and notes what was asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[int] = []

    async def read_exactly(self, count: int) -> bytearray:
        self.asked.append(count)
        if count > len(self.data):
            raise StreamClosed("over")
        taken, self.data = self.data[:count], self.data[count:]
        return bytearray(taken)


counters = st.integers(0, 2**64 - 1)


@given(st.integers(0, 1000), st.integers(0, 2000), counters, counters, counters)
def test_a_preamble_survives_the_wire(header: int, payload: int, sequence: int, received: int, consumed: int) -> None:
    preamble = Preamble(Kind.DATA, header, payload, sequence, received, consumed)
    assert len(preamble.encode()) == PREAMBLE_BYTES
    assert Preamble.decode(preamble.encode(), LIMITS) == preamble


@given(st.binary(min_size=PREAMBLE_BYTES, max_size=PREAMBLE_BYTES))
def test_garbage_is_refused_or_within_limits(data: bytes) -> None:
    try:
        preamble = Preamble.decode(data, LIMITS)
    except ProtocolError:
        return
    assert preamble.header_bytes <= LIMITS.header_bytes
    assert preamble.payload_bytes <= LIMITS.payload_bytes


async def test_a_declared_size_over_the_limit_is_refused_before_anything_is_read_for_it() -> None:
    for preamble in (Preamble(Kind.DATA, 1001, 0), Preamble(Kind.DATA, 0, 2**32 - 1)):
        stream = Recorded(preamble.encode() + bytes(10_000))
        with pytest.raises(ProtocolError, match="at most"):
            await read_frame(stream, LIMITS)  # type: ignore[arg-type]
        assert stream.asked == [PREAMBLE_BYTES]


@pytest.mark.parametrize(
    ("at", "value", "message"), [(0, b"XX", "not a frame"), (2, b"\x09", "version 9"), (3, b"\x63", "kind 99")]
)
def test_what_is_not_ours_is_named(at: int, value: bytes, message: str) -> None:
    data = bytearray(Preamble(Kind.DATA).encode())
    data[at : at + len(value)] = value
    with pytest.raises(ProtocolError, match=message):
        Preamble.decode(bytes(data), LIMITS)


def test_a_probe_carries_a_payload_of_bounded_size_and_no_header() -> None:
    limits = Limits(1000, 64 << 20)
    assert Preamble.decode(Preamble(Kind.PROBE, 0, PROBE_BYTES, 3).encode(), limits).payload_bytes == PROBE_BYTES
    with pytest.raises(ProtocolError, match="PROBE frame with 1048577 bytes"):
        Preamble.decode(Preamble(Kind.PROBE, 0, PROBE_BYTES + 1).encode(), limits)
    with pytest.raises(ProtocolError, match="PROBE frame with 9 bytes"):
        Preamble.decode(Preamble(Kind.PROBE, 1, 8).encode(), limits)


def test_a_control_frame_carries_no_content() -> None:
    with pytest.raises(ProtocolError, match="PING frame with 5 bytes"):
        Preamble.decode(Preamble(Kind.PING, 5).encode(), LIMITS)


async def test_a_frame_is_its_preamble_its_header_and_its_payload() -> None:
    stream = Recorded(Preamble(Kind.DATA, 2, 3).encode() + b"ab" + b"xyz" + b"rest")
    preamble, header, payload = await read_frame(stream, LIMITS)  # type: ignore[arg-type]
    assert (preamble.kind, header, payload) == (Kind.DATA, b"ab", b"xyz")
    assert stream.data == b"rest"


def test_buffers_of_any_type_become_bytes_without_a_copy() -> None:
    numbers = array.array("f", [1.0, 2.0])
    (view,) = byte_views([memoryview(numbers), b""])
    assert view.nbytes == 8
    numbers[0] = 5.0
    assert view.tobytes() == numbers.tobytes()
