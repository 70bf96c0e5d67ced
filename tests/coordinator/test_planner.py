"""Cuts cover the layers, respect memory, and are as balanced as they can be."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_coordinator.errors import PlanError
from deserve_coordinator.planner import Capacity, ModelShape, arrange, choose, cut, holds_a_layer, layer_limit, paces

SHAPE = ModelShape(num_layers=8, kv_tokens=100)


def node(memory: int = 10_000, time: float = 1.0, layer: int = 100, edge: int = 50, kv: int = 1) -> Capacity:
    return Capacity(memory, time, layer, edge, kv)


nodes = st.lists(
    st.builds(
        node, st.integers(100, 4000), st.floats(0.001, 10.0), st.just(100), st.integers(0, 400), st.integers(0, 3)
    ),
    min_size=1,
    max_size=5,
)


def stage_time(members: list[Capacity], ranges: list[tuple[int, int]]) -> float:
    tail = members[-1]
    pace = paces(members)
    times = [(last - first) * t for t, (first, last) in zip(pace, ranges, strict=True)]
    times[-1] += pace[-1] * tail.edge_bytes / tail.layer_bytes
    return max(times)


def edges(stage: int, count: int) -> int:
    return (stage == 0) + (stage == count - 1)


@settings(deadline=None, max_examples=200)
@given(nodes, st.integers(1, 8))
def test_a_cut_covers_the_layers_within_memory_and_no_other_is_faster(members: list[Capacity], layers: int) -> None:
    shape = ModelShape(layers, 20)
    limits = [layer_limit(m, shape, edges(i, len(members))) for i, m in enumerate(members)]
    borders = [(0, *c, layers) for c in combinations(range(1, layers), len(members) - 1)]
    possible = [list(pairwise(b)) for b in borders]
    possible = [p for p in possible if all(b - a <= m for (a, b), m in zip(p, limits, strict=True))]
    if not possible:
        with pytest.raises(PlanError):
            cut(members, shape)
        return
    ranges = cut(members, shape)
    assert ranges in possible
    assert stage_time(members, ranges) <= min(stage_time(members, p) for p in possible) * (1 + 1e-9)


@settings(deadline=None, max_examples=100)
@given(nodes, st.none() | st.integers(1, 5))
def test_a_chosen_ring_has_each_member_once(spares: list[Capacity], size: int | None) -> None:
    chosen = choose(spares, SHAPE, size)
    if chosen is not None:
        assert len({index for index, _ in chosen}) == len(chosen) >= (size or 1)
        assert [chosen[0][1][0], chosen[-1][1][1]] == [0, 8]
        assert all(a[1][1] == b[1][0] for a, b in pairwise(chosen))


def test_equal_nodes_get_equal_parts_but_for_the_output_head() -> None:
    assert cut([node(edge=0)] * 4, SHAPE) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert cut([node(edge=200)] * 2, SHAPE) == [(0, 5), (5, 8)]


def test_of_equally_good_cuts_the_tail_gets_least_and_then_the_head() -> None:
    assert cut([node(edge=145)] * 4, SHAPE) == [(0, 2), (2, 5), (5, 7), (7, 8)]
    assert cut([node(edge=0)] * 3, SHAPE) == [(0, 3), (3, 6), (6, 8)]
    assert cut([node(edge=100)] * 2, SHAPE) == [(0, 5), (5, 8)]


def test_a_faster_node_gets_more_layers() -> None:
    assert cut([node(time=1.0, edge=0), node(time=3.0, edge=0)], SHAPE) == [(0, 6), (6, 8)]


def test_small_differences_of_speed_do_not_move_layers() -> None:
    assert cut([node(time=1.0, edge=0), node(time=1.2, edge=0)], SHAPE) == [(0, 4), (4, 8)]


def test_the_largest_memories_stand_at_the_ends() -> None:
    assert arrange([node(1), node(5), node(3), node(9)]) == [3, 0, 2, 1]


def test_auto_takes_the_fewest_nodes_that_hold_the_model() -> None:
    small, large = node(1000), node(3000)
    assert choose([small, large, small], SHAPE, None) == [(1, (0, 8))]
    two = choose([node(1500)] * 3, SHAPE, None)
    assert two is not None
    assert len(two) == 2
    assert choose([small], SHAPE, None) is None


def test_a_given_size_waits_for_that_many_and_takes_more_where_memory_is_short() -> None:
    assert choose([node()], SHAPE, 2) is None
    assert len(choose([node()] * 3, SHAPE, 2) or ()) == 2
    assert len(choose([node(900)] * 3, SHAPE, 2) or ()) == 3


def test_a_node_that_cannot_hold_a_layer_is_known() -> None:
    assert not holds_a_layer(node(200), SHAPE, None)
    assert holds_a_layer(node(230), SHAPE, None)
    assert not holds_a_layer(node(230), SHAPE, 2)
    assert holds_a_layer(node(280), SHAPE, 2)


def test_nodes_of_one_machine_are_equally_fast_whatever_they_measured() -> None:
    noisy = [Capacity(10_000, time, 100, 0, 1, "one machine") for time in (0.9, 0.1, 0.4, 0.2)]
    assert paces(noisy) == [0.1] * 4
    apart = [Capacity(10_000, time, 100, 0, 1) for time in (0.9, 0.1)]
    assert paces(apart) == [0.9, 0.1]
