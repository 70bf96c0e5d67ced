"""The life of rings as a pure state machine: `apply(fleet, event, now) -> fleet, actions`.

A ring is assigned, becomes ready stage by stage, serves, and is dissolved as a whole when any of its stages is lost or
fails, or when it makes no progress; its id comes back with the next epoch when the nodes that are left form a ring
again. Spares form rings of their own if they can, and widen the ring with the fewest stages if they cannot. Touches no
clock and no channel.
"""

from __future__ import annotations

from dataclasses import replace

from deserve_coordinator.errors import PlanError
from deserve_coordinator.fleet import (
    Action,
    Event,
    Failure,
    Fleet,
    Member,
    NodeFailed,
    NodeJoined,
    NodeLost,
    NodeReady,
    Refuse,
    Ring,
    RingEnded,
    RingServes,
    RingStuck,
    Send,
    Tick,
)
from deserve_coordinator.planner import arrange, choose, cut, holds_a_layer
from deserve_network.control_messages import Assign, Begin, Release, StagePlace, StageReady

__all__ = ["apply"]

_KEPT_FAILURES = 32
_SLOW = "not ready within the deadline"


def apply(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Action]]:
    """The fleet after `event` at monotonic second `now`, and what has to be done, in order."""
    actions: list[Action] = []
    if isinstance(event, NodeJoined):
        fleet = _join(fleet, event.member, actions)
    elif isinstance(event, NodeLost):
        fleet = _lose(fleet, event.peer_id, now, actions)
    elif isinstance(event, NodeReady):
        fleet = _ready(fleet, event, now, actions)
    elif isinstance(event, NodeFailed):
        fleet = _fail(fleet, event, now, actions)
    elif isinstance(event, RingStuck):
        fleet = _unstick(fleet, event, now, actions)
    elif isinstance(event, Tick):
        fleet = _end_slow_loads(fleet, now, actions)
    return _plan(fleet, now, actions), actions


def _join(fleet: Fleet, member: Member, actions: list[Action]) -> Fleet:
    policy = fleet.policy
    if not holds_a_layer(member.capacity, policy.shape, policy.ring_size):
        mib = member.capacity.memory_bytes >> 20
        actions.append(
            Refuse(
                member.peer_id,
                "memory_bytes",
                f"{mib} MiB cannot hold one layer of {policy.model.id} with the KV and the edge it would need",
            )
        )
        return fleet
    return replace(fleet, nodes={**fleet.nodes, member.peer_id: member})


def _lose(fleet: Fleet, peer_id: str, now: float, actions: list[Action]) -> Fleet:
    nodes = {key: member for key, member in fleet.nodes.items() if key != peer_id}
    ring = fleet.ring_of(peer_id)
    fleet = replace(fleet, nodes=nodes)
    return fleet if ring is None else _dissolve(fleet, ring, "a node of the ring was lost", now, actions)


def _ready(fleet: Fleet, event: NodeReady, now: float, actions: list[Action]) -> Fleet:
    message = event.ready
    ring = fleet.rings.get(message.ring)
    if ring is None or ring.epoch != message.epoch or ring.serving:
        return fleet
    if ring.place_of(event.peer_id) != message.stage:
        actions.append(Refuse(event.peer_id, "stage", f"stage {message.stage} of {ring.id} is another node's"))
        return fleet
    ready = tuple(message if stage == message.stage else known for stage, known in enumerate(ring.ready))
    ring = replace(ring, ready=ready)
    complete = [stage for stage in ready if stage is not None]
    if len(complete) == len(ready):
        ring = replace(ring, serving=True)
        head = ring.stages[0].peer_id
        actions.append(RingServes(ring.id, ring.epoch, head))
        actions.append(Send(head, Begin(ring.id, ring.epoch, tuple(complete))))
        # Whoever got a ring to serve starts from a clean slate.
        members = {p.peer_id: replace(fleet.nodes[p.peer_id], failures=0) for p in ring.stages}
        fleet = replace(fleet, nodes={**fleet.nodes, **members})
    return replace(fleet, rings={**fleet.rings, ring.id: ring})


def _fail(fleet: Fleet, event: NodeFailed, now: float, actions: list[Action]) -> Fleet:
    ring = fleet.rings.get(event.ring)
    if ring is None or ring.epoch != event.epoch or ring.place_of(event.peer_id) is None:
        return fleet
    blamed = event.suspect if ring.place_of(event.suspect) is not None else event.peer_id
    fleet = _note(_rest(fleet, blamed, now), ring, event.peer_id, event.reason)
    return _dissolve(fleet, ring, event.reason, now, actions, failed=True)


def _unstick(fleet: Fleet, event: RingStuck, now: float, actions: list[Action]) -> Fleet:
    ring = fleet.rings.get(event.ring)
    if ring is None or ring.epoch != event.epoch:
        return fleet
    # The head composes every step and saw no error: of all stages it is the likeliest to hang. It rests for so long
    # that the others go on without it where they can, or the same ring would hang again.
    head = fleet.nodes[ring.stages[0].peer_id]
    head = replace(head, failures=head.failures + 1, rests_until_s=now + fleet.policy.longest_rest_s)
    fleet = replace(fleet, nodes={**fleet.nodes, head.peer_id: head})
    reason = "no progress for as long as a lease lasts"
    return _dissolve(_note(fleet, ring, head.peer_id, reason), ring, reason, now, actions, failed=True)


def _end_slow_loads(fleet: Fleet, now: float, actions: list[Action]) -> Fleet:
    for ring in list(fleet.rings.values()):
        if not ring.serving and now - ring.began_s > fleet.policy.load_deadline_s:
            for place, ready in zip(ring.stages, ring.ready, strict=True):
                if ready is None:
                    fleet = _note(_rest(fleet, place.peer_id, now), ring, place.peer_id, _SLOW)
            fleet = _dissolve(fleet, ring, _SLOW, now, actions)
    return fleet


def _note(fleet: Fleet, ring: Ring, peer_id: str, reason: str) -> Fleet:
    failure = Failure(ring.id, ring.epoch, fleet.nodes[peer_id].name, reason)
    return replace(fleet, failures=(*fleet.failures, failure)[-_KEPT_FAILURES:])


def _rest(fleet: Fleet, peer_id: str, now: float) -> Fleet:
    """Keep a node out of plans for 1, 2, 4, ... seconds, so that one that always fails does not spin the swarm."""
    member = fleet.nodes.get(peer_id)
    if member is None:
        return fleet
    rest_s = min(2.0 ** min(member.failures, 16), fleet.policy.longest_rest_s)
    member = replace(member, failures=member.failures + 1, rests_until_s=now + rest_s)
    return replace(fleet, nodes={**fleet.nodes, peer_id: member})


def _dissolve(
    fleet: Fleet, ring: Ring, reason: str, now: float, actions: list[Action], *, failed: bool = False
) -> Fleet:
    living = [place.peer_id for place in ring.stages if place.peer_id in fleet.nodes]
    actions.extend(Send(peer_id, Release(ring.id, ring.epoch, reason)) for peer_id in living)
    actions.append(RingEnded(ring.id, ring.epoch, ring.stages[0].peer_id in living, failed))
    rings = {key: other for key, other in fleet.rings.items() if key != ring.id}
    spares = {peer_id: replace(fleet.nodes[peer_id], spare_since_s=now) for peer_id in living}
    vacant = (*fleet.vacant, (ring.id, ring.epoch + 1))
    return replace(fleet, rings=rings, vacant=vacant, nodes={**fleet.nodes, **spares})


def _plan(fleet: Fleet, now: float, actions: list[Action]) -> Fleet:
    while True:
        spares = [m for m in fleet.nodes.values() if fleet.ring_of(m.peer_id) is None and m.rests_until_s <= now]
        settled = [m for m in spares if now - max(m.spare_since_s, m.rests_until_s) >= fleet.policy.settle_s]
        capacities = [spare.capacity for spare in spares]
        chosen = choose(capacities, fleet.policy.shape, fleet.policy.ring_size)
        if chosen is None and fleet.rings:
            return _widen(fleet, settled, now, actions)
        if chosen is None and fleet.vacant and settled:
            # What is left of a ring goes on with fewer nodes than asked for; another may never come.
            chosen = choose(capacities, fleet.policy.shape, len(spares))
        if chosen is None:
            return fleet
        stages = tuple(_place(spares[index], first, last) for index, (first, last) in chosen)
        if fleet.vacant:
            (ring_id, epoch), *rest = fleet.vacant
            fleet = replace(fleet, vacant=tuple(rest))
        else:
            ring_id, epoch = f"{fleet.policy.ring_prefix}-{fleet.made + 1}", 1
            fleet = replace(fleet, made=fleet.made + 1)
        fleet = _assign(fleet, ring_id, epoch, stages, now, actions)


def _place(member: Member, first: int, last: int) -> StagePlace:
    return StagePlace(member.peer_id, member.name, member.addresses, first, last)


def _assign(
    fleet: Fleet, ring_id: str, epoch: int, stages: tuple[StagePlace, ...], now: float, actions: list[Action]
) -> Fleet:
    empty: tuple[StageReady | None, ...] = (None,) * len(stages)
    ring = Ring(ring_id, epoch, stages, now, empty)
    policy = fleet.policy
    links = policy.links.around([place.name for place in stages])
    for stage, place in enumerate(stages):
        actions.append(Send(place.peer_id, Assign(ring_id, epoch, stage, stages, policy.model, links)))
    return replace(fleet, rings={**fleet.rings, ring_id: ring})


def _widen(fleet: Fleet, waiting: list[Member], now: float, actions: list[Action]) -> Fleet:
    """Put spares that cannot form a ring of their own into the one with the fewest stages."""
    serving = [ring for ring in fleet.rings.values() if ring.serving]
    if not waiting or not serving:
        return fleet
    ring = min(serving, key=lambda r: (len(r.stages), r.id))
    members = [fleet.nodes[place.peer_id] for place in ring.stages]
    room = fleet.policy.shape.num_layers - len(members)
    members += waiting[:room]
    if room <= 0:
        return fleet
    members = [members[i] for i in arrange([m.capacity for m in members])]
    try:
        ranges = cut([m.capacity for m in members], fleet.policy.shape)
    except PlanError:
        return fleet
    fleet = _dissolve(fleet, ring, "the ring is cut anew with more nodes", now, actions)
    fleet = replace(fleet, vacant=fleet.vacant[:-1])
    stages = tuple(_place(m, first, last) for m, (first, last) in zip(members, ranges, strict=True))
    return _assign(fleet, ring.id, ring.epoch + 1, stages, now, actions)
