"""Trains of probes over simulated lines: the estimate is right, and none is sent more than it carries in a moment."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network import link_measure
from deserve_network.control_messages import LinkShape
from deserve_network.emulation import Line
from deserve_network.framing import PREAMBLE_BYTES
from deserve_network.link_measure import (
    FIRST_PROBE_BYTES,
    LAST_PROBE_BYTES,
    PROBES,
    Train,
    bandwidth_of,
    latency_of,
    measure_link,
    next_probe_bytes,
    steadier_latency,
)


def send(line: Line, now: float, probe_bytes: int) -> Train:
    return Train(probe_bytes, tuple(line.enter(now, probe_bytes + PREAMBLE_BYTES) for _ in range(PROBES)))


def trains_over(line: Line) -> list[Train]:
    trains: list[Train] = []
    while (nbytes := next_probe_bytes(trains)) is not None:
        trains.append(send(line, trains[-1].arrivals[-1] if trains else 0.0, nbytes))
        assert len(trains) < 10
    return trains


@given(st.floats(0.5, 1000), st.floats(0, 600))
def test_the_bandwidth_of_any_line_is_found_in_bounded_time(mbit: float, latency_ms: float) -> None:
    trains = trains_over(Line(LinkShape(latency_ms, mbit=mbit)))
    assert bandwidth_of(trains)[0] == pytest.approx(mbit * 1e6 / 8, rel=0.01)
    on_the_line = sum(train.probe_bytes * PROBES for train in trains) / (mbit * 1e6 / 8)
    assert on_the_line < 2.5
    assert len(trains) <= 5


def test_a_line_faster_than_processors_has_no_bound() -> None:
    assert bandwidth_of(trains_over(Line(LinkShape(mbit=4000)))) == (0.0, 0.0)
    assert bandwidth_of(trains_over(Line(LinkShape()))) == (0.0, 0.0)


def test_trains_grow_until_slow_start_is_over() -> None:
    slow = Train(FIRST_PROBE_BYTES, tuple(0.015 * number for number in range(PROBES)))
    second = next_probe_bytes([slow])
    assert second is not None
    assert second > FIRST_PROBE_BYTES
    faster = Train(second, tuple(0.012 * number for number in range(PROBES)))
    assert next_probe_bytes([slow, faster]) is not None
    assert next_probe_bytes([slow, faster, faster]) is None
    largest = Train(LAST_PROBE_BYTES, faster.arrivals)
    assert next_probe_bytes([slow, largest]) is None


class SlowStart:
    """TCP without losses: what is in flight is bound by a window that doubles with each full window acknowledged."""

    def __init__(self, bytes_per_s: float, rtt_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._rtt_s = rtt_s
        self._window = 14_600.0

    def train(self, now_s: float, probe_bytes: int) -> Train:
        arrivals: list[float] = []
        left, sent, began_s = PROBES * probe_bytes, 0.0, now_s
        while left > 0:
            burst = min(left, self._window)
            for number in range(len(arrivals), PROBES):
                end = (number + 1) * probe_bytes
                if end > sent + burst:
                    break
                arrivals.append(began_s + self._rtt_s / 2 + (end - sent) / self._bytes_per_s)
            full = burst == self._window
            sent, left = sent + burst, left - burst
            began_s += max(self._rtt_s, burst / self._bytes_per_s)
            if full and self._window < self._bytes_per_s * self._rtt_s:
                self._window *= 2
        return Train(probe_bytes, tuple(arrivals))


@pytest.mark.parametrize("rtt_s", [0.02, 0.128, 0.512, 1.024])
@pytest.mark.parametrize("bytes_per_s", [1e6, 5e6, 50e6])
def test_a_long_line_is_given_enough_to_leave_slow_start(rtt_s: float, bytes_per_s: float) -> None:
    line, trains, now_s = SlowStart(bytes_per_s, rtt_s), list[Train](), 0.0
    while (nbytes := next_probe_bytes(trains, rtt_s)) is not None:
        trains.append(line.train(now_s, nbytes))
        now_s = trains[-1].arrivals[-1] + rtt_s / 2
    found, _ = bandwidth_of(trains)
    # 8 MiB, the longest train, is little for a fast line as long as this: what it shows is more than rings send.
    assert min(bytes_per_s, 4e6) / 1.5 <= found <= 1.1 * bytes_per_s
    assert now_s <= 2.0 + 16 * rtt_s


def test_stalls_at_either_end_do_not_move_the_estimate() -> None:
    chance = random.Random(5)
    arrivals = sorted(0.02 * number + (chance.uniform(0, 0.03) if number % 4 == 1 else 0.0) for number in range(PROBES))
    assert bandwidth_of([Train(50_000, tuple(arrivals))])[0] == pytest.approx(2.5e6, rel=0.02)


def test_jitter_shows_as_spread() -> None:
    even = Train(10_000, tuple(0.1 * number for number in range(PROBES)))
    assert bandwidth_of([even])[1] == pytest.approx(0.0)
    uneven = Train(10_000, tuple(0.1 * number + 0.02 * (number % 2) for number in range(PROBES)))
    assert bandwidth_of([uneven])[1] == pytest.approx(0.2, abs=0.02)


def test_what_a_train_left_in_the_queue_is_no_spread_of_the_latency() -> None:
    quiet, behind_a_train = [0.100, 0.102, 0.104], [0.5, 0.3, 0.099]
    assert steadier_latency(quiet, behind_a_train) == pytest.approx((0.0495, 0.002))
    assert steadier_latency(behind_a_train, quiet) == pytest.approx((0.0495, 0.002))
    assert steadier_latency(quiet, []) == pytest.approx((0.05, 0.002))


def test_latency_is_half_the_shortest_round_trip_and_its_spread_the_way_to_the_95th_percentile() -> None:
    assert latency_of([]) == (0.0, 0.0)
    assert latency_of([0.1]) == (0.05, 0.0)
    rtts = [0.1] * 18 + [0.2, 0.9]
    assert latency_of(rtts) == pytest.approx((0.05, 0.05))


async def test_a_stream_that_ends_before_the_first_answer_gives_no_measurement() -> None:
    def probe(_: int) -> asyncio.Future[float]:
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        answer.cancel()
        return answer

    assert await measure_link(probe, silence_s=5.0) is None


async def test_answers_that_take_as_long_as_a_link_may_be_silent_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(link_measure, "BUDGET_S", 0.01)

    def probe(_: int) -> asyncio.Future[float]:
        answer: asyncio.Future[float] = loop.create_future()
        at = loop.time() + 0.3
        loop.call_at(at, answer.set_result, at)
        return answer

    measured = await measure_link(probe, silence_s=5.0)
    assert measured is not None
    assert measured.latency_s == pytest.approx(0.15, abs=0.01)


async def test_pings_without_any_answer_are_no_end_of_the_stream() -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        await measure_link(lambda _: asyncio.get_running_loop().create_future(), silence_s=0.05)
