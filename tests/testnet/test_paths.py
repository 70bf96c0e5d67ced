"""Delay, bandwidth, order and loss of the emulated internet, on a made-up clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_testnet.wan.paths import Paths, PathShape


def drain(paths: Paths, until: float) -> list[tuple[float, int, bytes]]:
    """Everything that arrives up to `until` as (time, target, packet)."""
    arrived = []
    now = 0.0
    while now <= until:
        packets, upcoming = paths.arrivals(now)
        arrived += [(now, target, packet) for target, packet in packets]
        if upcoming is None:
            break
        now = upcoming
    return arrived


def test_a_packet_takes_the_one_way_latency():
    paths = Paths(2, PathShape(latency_s=0.05))
    assert paths.send(0, 1, b"x", 1, now=0.0)
    assert drain(paths, 1.0) == [(0.05, 1, b"x")]


def test_the_machine_itself_looks_in_without_delay_or_limit():
    paths = Paths(3, PathShape(latency_s=0.05, mbit=1.0), near={2})
    paths.send(0, 2, b"out", 1500, now=0.0)
    paths.send(2, 1, b"in", 1500, now=0.0)
    assert sorted(drain(paths, 1.0)) == [(0.0, 1, b"in"), (0.0, 2, b"out")]


def test_bandwidth_is_paid_once_up_and_once_down():
    paths = Paths(2, PathShape(latency_s=0.1, mbit=8.0))
    for number in range(10):
        paths.send(0, 1, bytes([number]), 1000, now=0.0)
    times = [time for time, _, _ in drain(paths, 1.0)]
    assert times == pytest.approx([0.1 + (number + 2) * 0.001 for number in range(10)])


def test_a_full_queue_drops():
    paths = Paths(2, PathShape(latency_s=0.0, mbit=8.0, queue_s=0.0105))
    sent = [paths.send(0, 1, b"", 1000, now=0.0) for _ in range(30)]
    assert sent == [True] * 11 + [False] * 19
    assert paths.dropped == 19


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(20, 1500)), min_size=2, max_size=50))
def test_packets_of_one_path_keep_their_order(gaps):
    paths = Paths(2, PathShape(latency_s=0.02, jitter_s=0.05, mbit=50.0, queue_s=60.0))
    now = 0.0
    for number, (gap, size) in enumerate(gaps):
        now += gap
        assert paths.send(0, 1, bytes([number]), size, now)
    assert [packet[0] for _, _, packet in drain(paths, 1e3)] == list(range(len(gaps)))
