"""Delay, bandwidth, order and loss of the emulated internet, on a made-up clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.link_shapes import LinkRule, LinkShapes, load_link_shapes
from deserve_network.control_messages import LinkShape
from deserve_testnet.errors import UsageError
from deserve_testnet.wan.differences import differences
from deserve_testnet.wan.paths import Access, PathDelay, Paths, PathShape


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


def test_a_member_may_be_far_and_narrow():
    paths = Paths(3, PathShape(latency_s=0.05), access={1: Access(latency_s=0.1, uplink_mbit=8.0)})
    for target in (0, 2):
        paths.send(1, target, b"from", 1000, now=0.0)
    paths.send(0, 1, b"to", 1000, now=0.0)
    paths.send(0, 2, b"past", 1000, now=0.0)
    arrived = {(packet, target): time for time, target, packet in drain(paths, 1.0)}
    assert arrived == {
        (b"from", 0): pytest.approx(0.151),
        (b"from", 2): pytest.approx(0.152),
        (b"to", 1): pytest.approx(0.15),
        (b"past", 2): pytest.approx(0.05),
    }


def test_a_path_may_have_a_delay_of_its_own_one_way():
    paths = Paths(2, PathShape(latency_s=0.05), delays={(0, 1): PathDelay(0.2, 0.0)})
    paths.send(0, 1, b"there", 1, now=0.0)
    paths.send(1, 0, b"back", 1, now=0.0)
    assert drain(paths, 1.0) == [(0.05, 0, b"back"), (0.2, 1, b"there")]


def test_links_by_name_become_members(tmp_path):
    text = """
    [[node]]
    name = "node-2"
    latency_ms = 10
    uplink_mbit = 5
    [[link]]
    from = "node-1"
    to = "node-2"
    jitter_ms = 3
    """
    (tmp_path / "links.toml").write_text(text)
    found = differences(load_link_shapes(tmp_path / "links.toml", LinkShape(latency_ms=40.0)))
    assert found.access == {2: Access(0.01, uplink_mbit=5.0)}
    assert found.delays == {(1, 2): PathDelay(0.05, 0.003)}


@pytest.mark.parametrize(
    ("rule", "said"),
    [(LinkRule(0, 1), "0 is no node's name"), (LinkRule("node-1", "node-2", mbit=3.0), "link.mbit")],
)
def test_what_namespaces_cannot_do_is_said(rule, said):
    with pytest.raises(UsageError, match=f"--links: {said}"):
        differences(LinkShapes(rules=(rule,)))
