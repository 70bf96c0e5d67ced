from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.control_messages import LinkShape
from deserve_network.emulation import Line


def test_a_line_without_a_shape_delivers_at_once() -> None:
    line = Line(LinkShape())
    assert line.is_zero
    assert line.enter(3.0, 10**9) == 3.0


def test_latency_is_a_pipe_and_not_a_serial_wait() -> None:
    line = Line(LinkShape(latency_ms=50))
    assert [line.enter(now / 1000, 1000) for now in range(3)] == pytest.approx([0.050, 0.051, 0.052])


def test_bandwidth_serialises() -> None:
    line = Line(LinkShape(mbit=8))  # a million bytes a second
    assert [line.enter(0.0, 100_000) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert line.enter(1.0, 100_000) == pytest.approx(1.1)


def test_bandwidth_and_latency_add_up() -> None:
    line = Line(LinkShape(latency_ms=20, mbit=8))
    assert line.enter(0.0, 10_000) == pytest.approx(0.030)
    assert line.free_at == pytest.approx(0.010)


def test_the_same_seed_draws_the_same_jitter_and_each_direction_its_own() -> None:
    shape = LinkShape(latency_ms=50, jitter_ms=20, seed=7)

    def arrivals(direction: str) -> list[float]:
        line = Line(shape, direction)
        return [line.enter(float(second), 100) for second in range(20)]

    assert arrivals("out") == arrivals("out")
    assert arrivals("out") != arrivals("back")


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 10**6)), min_size=1, max_size=50),
    st.floats(0, 100),
    st.floats(0, 200),
    st.sampled_from([0.0, 10.0, 1000.0]),
)
def test_no_frame_overtakes_another_or_arrives_before_it_left(
    frames: list[tuple[float, int]], latency_ms: float, jitter_ms: float, mbit: float
) -> None:
    line = Line(LinkShape(latency_ms, jitter_ms, mbit, seed=1))
    now, before = 0.0, 0.0
    for pause, nbytes in frames:
        now += pause
        arrival = line.enter(now, nbytes)
        assert arrival >= max(now, before)
        before = arrival


@pytest.mark.parametrize("shape", [LinkShape(latency_ms=-1), LinkShape(jitter_ms=-1), LinkShape(mbit=-1)])
def test_a_negative_shape_is_refused(shape: LinkShape) -> None:
    with pytest.raises(ValueError, match="negative"):
        Line(shape)
