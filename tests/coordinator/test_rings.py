"""The ring state machine by itself: events in, assignments out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_coordinator.fleet import (
    Action,
    Event,
    Fleet,
    Member,
    NodeFailed,
    NodeJoined,
    NodeLost,
    NodeReady,
    Policy,
    Refuse,
    RingEnded,
    RingServes,
    RingStuck,
    Send,
    Tick,
)
from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.planner import Capacity, ModelShape
from deserve_coordinator.rings import apply
from deserve_network.control_messages import (
    Assign,
    Begin,
    CostFit,
    KvPool,
    LinkMeasure,
    LinkShape,
    ModelRef,
    Release,
    StageReady,
)

POLICY = Policy(
    ModelRef("demo", "", "d", "float32"),
    ModelShape(8, 100),
    LinkShapes(LinkShape(5.0)),
    2,
    "r",
    settle_s=5.0,
    load_deadline_s=100.0,
)


def member(name: str, memory: int = 10_000, spare_since_s: float = 0.0) -> Member:
    return Member(name, name, (f"/ip4/1.2.3.4/tcp/1/p2p/{name}",), Capacity(memory, 1.0, 100, 0, 1), spare_since_s)


def ready(ring: str, epoch: int, stage: int) -> StageReady:
    cost, link = CostFit(0.1, 0.002, 0.0, 0.0, 0.0, 16), LinkMeasure(0.0, 0.0, 0.0, 0.0)
    return StageReady(ring, epoch, stage, 16, 1024, (KvPool(0, 0, 10),), 0.0, 0.0, cost, link, "m", 1, 1, True)


def run(fleet: Fleet, *events: Event, now: float = 0.0) -> tuple[Fleet, list[Action]]:
    actions: list[Action] = []
    for event in events:
        fleet, more = apply(fleet, event, now)
        actions += more
    return fleet, actions


def serve(fleet: Fleet, now: float = 0.0) -> tuple[Fleet, list[Action]]:
    """Every stage of every loading ring becomes ready."""
    events = [
        NodeReady(place.peer_id, ready(ring.id, ring.epoch, stage))
        for ring in fleet.rings.values()
        if not ring.serving
        for stage, place in enumerate(ring.stages)
    ]
    return run(fleet, *events, now=now)


def sent(actions: list[Action], kind: type) -> list[tuple[str, object]]:
    return [(a.peer_id, a.message) for a in actions if isinstance(a, Send) and isinstance(a.message, kind)]


def layers(fleet: Fleet) -> dict[str, list[tuple[str, int, int]]]:
    return {ring.id: [(p.peer_id, p.first, p.last) for p in ring.stages] for ring in fleet.rings.values()}


def test_two_nodes_form_a_ring_that_begins_when_both_are_ready() -> None:
    fleet, actions = run(Fleet(POLICY), NodeJoined(member("a")))
    assert actions == []
    fleet, actions = run(fleet, NodeJoined(member("b")))
    assert layers(fleet) == {"r-1": [("a", 0, 4), ("b", 4, 8)]}
    assert [peer for peer, _ in sent(actions, Assign)] == ["a", "b"]
    fleet, actions = run(fleet, NodeReady("b", ready("r-1", 1, 1)))
    assert actions == []
    fleet, actions = run(fleet, NodeReady("a", ready("r-1", 1, 0)))
    assert actions[0] == RingServes("r-1", 1, "a")
    ((peer, begin),) = sent(actions, Begin)
    assert peer == "a"
    assert isinstance(begin, Begin)
    assert [stage.stage for stage in begin.ready] == [0, 1]


def test_four_nodes_form_two_rings() -> None:
    fleet, _ = run(Fleet(POLICY), *(NodeJoined(member(name)) for name in "abcd"))
    assert layers(fleet) == {"r-1": [("a", 0, 4), ("b", 4, 8)], "r-2": [("c", 0, 4), ("d", 4, 8)]}


def test_a_lost_node_dissolves_its_ring_and_the_rest_waits_for_another() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = serve(fleet)
    fleet, actions = run(fleet, NodeLost("a"))
    assert [peer for peer, _ in sent(actions, Release)] == ["b"]
    assert RingEnded("r-1", 1, head_lives=False) in actions
    assert fleet.rings == {}
    fleet, actions = run(fleet, NodeJoined(member("c")))
    assert [(m.ring, m.epoch) for _, m in sent(actions, Assign) if isinstance(m, Assign)] == [("r-1", 2)] * 2


def test_a_spare_widens_the_smallest_ring_after_it_has_settled() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = serve(fleet)
    fleet, actions = run(fleet, NodeJoined(member("c", spare_since_s=10.0)), Tick(), now=10.0)
    assert actions == []
    fleet, actions = run(fleet, Tick(), now=15.0)
    assert RingEnded("r-1", 1, head_lives=True) in actions
    assert fleet.rings["r-1"].epoch == 2
    assert [(p.first, p.last) for p in fleet.rings["r-1"].stages] == [(0, 3), (3, 6), (6, 8)]
    assert {p.peer_id for p in fleet.rings["r-1"].stages} == {"a", "b", "c"}
    releases = [i for i, a in enumerate(actions) if isinstance(a, Send) and isinstance(a.message, Release)]
    assigns = [i for i, a in enumerate(actions) if isinstance(a, Send) and isinstance(a.message, Assign)]
    assert max(releases) < min(assigns)


def test_a_failing_stage_rests_longer_each_time() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = run(fleet, NodeFailed("b", "r-1", 1, "no memory"), now=1.0)
    assert fleet.rings == {}
    assert fleet.nodes["b"].rests_until_s == 2.0
    fleet, _ = run(fleet, Tick(), now=2.0)
    assert fleet.rings["r-1"].epoch == 2
    fleet, _ = run(fleet, NodeFailed("b", "r-1", 2, "no memory"), now=2.0)
    assert fleet.nodes["b"].rests_until_s == 4.0
    assert fleet.nodes["a"].failures == 0


def test_a_ring_that_is_stuck_is_dissolved_and_goes_on_without_its_head_for_a_while() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = serve(fleet)
    after, actions = run(fleet, RingStuck("r-1", 2), RingStuck("r-9", 1))
    assert (after, actions) == (fleet, [])
    fleet, actions = run(fleet, RingStuck("r-1", 1), now=10.0)
    assert RingEnded("r-1", 1, head_lives=True, failed=True) in actions
    assert {peer for peer, _ in sent(actions, Release)} == {"a", "b"}
    assert (fleet.rings, fleet.nodes["a"].rests_until_s, fleet.nodes["b"].rests_until_s) == ({}, 70.0, 0.0)
    fleet, _ = run(fleet, Tick(), now=15.0)
    assert layers(fleet) == {"r-1": [("b", 0, 8)]}
    assert fleet.rings["r-1"].epoch == 2
    fleet, _ = serve(fleet, now=16.0)
    fleet, _ = run(fleet, Tick(), now=75.0)
    assert {place.peer_id for place in fleet.rings["r-1"].stages} == {"a", "b"}


def test_only_a_ring_that_could_not_go_on_ends_as_failed() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = serve(fleet)
    _, actions = run(fleet, NodeFailed("b", "r-1", 1, "no memory"))
    assert RingEnded("r-1", 1, head_lives=True, failed=True) in actions
    _, actions = run(fleet, NodeLost("b"))
    assert RingEnded("r-1", 1, head_lives=True, failed=False) in actions


def test_the_suspect_is_blamed_not_the_reporter() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = run(fleet, NodeFailed("b", "r-1", 1, "link lost", suspect="a"))
    assert (fleet.nodes["a"].failures, fleet.nodes["b"].failures) == (1, 0)


def test_what_is_left_of_a_ring_goes_on_alone_when_nobody_comes_back() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = run(fleet, NodeLost("b"), Tick(), now=10.0)
    assert fleet.rings == {}
    fleet, _ = run(fleet, Tick(), now=15.0)
    assert layers(fleet) == {"r-1": [("a", 0, 8)]}
    assert fleet.rings["r-1"].epoch == 2


def test_a_swarm_that_never_had_a_ring_waits_for_enough_nodes() -> None:
    fleet, actions = run(Fleet(POLICY), NodeJoined(member("a")), Tick(), now=1000.0)
    assert fleet.rings == {}
    assert actions == []


def test_messages_of_another_epoch_change_nothing() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    after, actions = run(fleet, NodeFailed("b", "r-1", 7, "old"), NodeReady("a", ready("r-1", 0, 0)))
    assert after == fleet
    assert actions == []


def test_a_stage_of_another_node_cannot_be_claimed() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    _, actions = run(fleet, NodeReady("a", ready("r-1", 1, 1)))
    assert [a.field for a in actions if isinstance(a, Refuse)] == ["stage"]


def test_a_node_too_small_for_a_layer_is_refused_by_its_memory() -> None:
    fleet, actions = run(Fleet(POLICY), NodeJoined(member("a", memory=100)))
    assert fleet.nodes == {}
    assert [a.field for a in actions if isinstance(a, Refuse)] == ["memory_bytes"]


def test_a_ring_that_is_not_ready_in_time_is_dissolved_and_the_slow_stage_rests() -> None:
    fleet, _ = run(Fleet(POLICY), NodeJoined(member("a")), NodeJoined(member("b")))
    fleet, _ = run(fleet, NodeReady("a", ready("r-1", 1, 0)))
    fleet, _ = run(fleet, Tick(), now=101.0)
    assert fleet.rings == {}
    assert fleet.nodes["b"].rests_until_s > 101.0
    assert fleet.nodes["a"].rests_until_s == 0.0


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "lose", "ready", "fail", "stuck", "tick"]), st.integers(0, 6), st.integers(100, 3000)
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(steps, st.sampled_from([None, 1, 2, 3]))
def test_whatever_happens_rings_are_whole_disjoint_and_their_epochs_grow(
    script: list[tuple[str, int, int]], ring_size: int | None
) -> None:
    fleet = Fleet(replace(POLICY, ring_size=ring_size))
    epochs: dict[str, int] = {}
    for now, (what, who, memory) in enumerate(script):
        name = "abcdefg"[who]
        ring = fleet.ring_of(name)
        event: Event = Tick()
        if what == "join" and name not in fleet.nodes:
            event = NodeJoined(member(name, memory, float(now)))
        elif what == "lose":
            event = NodeLost(name)
        elif what == "fail" and ring is not None:
            event = NodeFailed(name, ring.id, ring.epoch, "x")
        elif what == "stuck" and ring is not None:
            event = RingStuck(ring.id, ring.epoch)
        elif what == "ready":
            fleet, _ = serve(fleet, now=float(now))
        fleet, actions = apply(fleet, event, float(now))
        for _, message in sent(actions, Assign):
            assert isinstance(message, Assign)
            if message.stage == 0:
                assert message.epoch > epochs.get(message.ring, 0)
                epochs[message.ring] = message.epoch
        members = [p.peer_id for r in fleet.rings.values() for p in r.stages]
        assert len(members) == len(set(members))
        assert set(members) <= fleet.nodes.keys()
        for r in fleet.rings.values():
            assert [r.stages[0].first, r.stages[-1].last] == [0, 8]
            assert all(a.last == b.first for a, b in zip(r.stages, r.stages[1:], strict=False))
            assert all(p.first < p.last for p in r.stages)
