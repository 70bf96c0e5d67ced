"""Who replays an audit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deserve_coordinator.audits.assignment import Candidate, choose_auditors

AUDIT, BEACON = b"a" * 16, b"b" * 32


def _node(number: int, **fields: object) -> Candidate:
    known = {"peer_id": f"peer-{number}", "node_id": bytes([number]) * 32, "operator": bytes([number]) * 20}
    return Candidate(**({"hardware": "cpu", "memory_bytes": 100} | known | fields))  # type: ignore[arg-type]


def _chosen(nodes: list[Candidate], **fields: object) -> list[str]:
    arguments = {"audit": AUDIT, "beacon": BEACON, "count": 1, "not_by": ()} | fields
    return [one.peer_id for one in choose_auditors(nodes, **arguments)]  # type: ignore[arg-type]


def test_no_node_of_the_audited_operator_is_chosen() -> None:
    nodes = [_node(1), _node(2, operator=bytes([1]) * 20)]
    assert _chosen(nodes, not_by={bytes([1]) * 20}) == []


def test_a_node_of_the_same_ring_is_chosen_only_where_there_is_no_other() -> None:
    nodes = [_node(1, ring="r/1"), _node(2, ring="r/2", tasks=5)]
    assert _chosen(nodes, not_in_ring="r/1") == ["peer-2"]
    assert _chosen(nodes[:1], not_in_ring="r/1") == ["peer-1"]


def test_a_confirmation_prefers_other_hardware() -> None:
    nodes = [_node(1), _node(2), _node(3, hardware="h100"), _node(4, hardware="h100"), _node(5, hardware="l4")]
    chosen = _chosen(nodes, count=2, not_on={"cpu"})
    assert {name[-1] for name in chosen} in ({"3", "5"}, {"4", "5"})
    assert len(_chosen(nodes[:2], count=2, not_on={"cpu"})) == 2


def test_a_trusted_batch_is_audited_by_the_pool_alone_and_only_by_who_can_hold_the_layers() -> None:
    nodes = [_node(1), _node(2, trusted=True, memory_bytes=10), _node(3, trusted=True)]
    assert _chosen(nodes, count=3, trusted_only=True, needs_bytes=50) == ["peer-3"]


def test_another_beacon_chooses_others() -> None:
    nodes = [_node(number) for number in range(20)]
    picks = {_chosen(nodes, beacon=bytes([i]) * 32)[0] for i in range(30)}
    assert len(picks) > 8


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["cpu", "gpu"]), st.sampled_from(["", "r/1"])), max_size=12),
    st.integers(1, 3),
    st.sets(st.integers(0, 5), max_size=3),
)
def test_auditors_are_of_pairwise_different_operators_and_as_many_as_there_can_be(
    kinds: list[tuple[int, str, str]], count: int, excluded: set[int]
) -> None:
    nodes = [
        replace(_node(i), operator=bytes([owner]) * 20, hardware=hardware, ring=ring)
        for i, (owner, hardware, ring) in enumerate(kinds)
    ]
    not_by = {bytes([owner]) * 20 for owner in excluded}
    chosen = choose_auditors(nodes, audit=AUDIT, beacon=BEACON, count=count, not_by=not_by, not_in_ring="r/1")
    operators = {one.operator for one in chosen}
    assert len(operators) == len(chosen)
    assert not operators & not_by
    assert len(chosen) == min(count, len({node.operator for node in nodes} - not_by))
