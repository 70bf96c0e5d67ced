"""The nodes and rings of a swarm as plain values, the events that change them and the actions that follow.

`rings.apply` is the state machine over these; nothing here acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.planner import Capacity, ModelShape
from deserve_network.control_messages import Assign, Begin, ModelRef, Release, StagePlace, StageReady

__all__ = [
    "Action",
    "Event",
    "Failure",
    "Fleet",
    "Member",
    "NodeFailed",
    "NodeJoined",
    "NodeLost",
    "NodeReady",
    "Policy",
    "Refuse",
    "Ring",
    "RingEnded",
    "RingServes",
    "RingStuck",
    "Send",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class Member:
    """A node that offered itself. `spare_since_s` and `rests_until_s` are monotonic seconds."""

    peer_id: str
    name: str
    addresses: tuple[str, ...]
    capacity: Capacity
    spare_since_s: float
    """When it joined, or its last ring ended."""
    failures: int = 0
    rests_until_s: float = 0.0
    """Not planned with before then: its last ring failed because of it."""


@dataclass(frozen=True, slots=True)
class Ring:
    id: str
    epoch: int
    stages: tuple[StagePlace, ...]
    began_s: float
    ready: tuple[StageReady | None, ...]
    serving: bool = False

    def place_of(self, peer_id: str) -> int | None:
        for stage, place in enumerate(self.stages):
            if place.peer_id == peer_id:
                return stage
        return None


@dataclass(frozen=True)
class Policy:
    """What does not change while the coordinator runs."""

    model: ModelRef
    shape: ModelShape
    links: LinkShapes
    ring_size: int | None
    ring_prefix: str
    """Makes ring ids of this start differ from those of an earlier one."""
    settle_s: float = 5.0
    """How long a spare waits for others before it widens a ring or makes do with a smaller one."""
    load_deadline_s: float = 900.0
    longest_rest_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an epoch of a ring could not go on, and at which node; for whoever wonders why nothing moves."""

    ring: str
    epoch: int
    node: str
    reason: str


@dataclass(frozen=True)
class Fleet:
    """Nodes by peer id in the order they joined, rings by id, and ring ids to use again with their next epoch."""

    policy: Policy
    nodes: dict[str, Member] = field(default_factory=dict)
    rings: dict[str, Ring] = field(default_factory=dict)
    vacant: tuple[tuple[str, int], ...] = ()
    made: int = 0
    failures: tuple[Failure, ...] = ()
    """The last few, the oldest first. Nodes that left are none."""

    def ring_of(self, peer_id: str) -> Ring | None:
        for ring in self.rings.values():
            if ring.place_of(peer_id) is not None:
                return ring
        return None


@dataclass(frozen=True, slots=True)
class NodeJoined:
    member: Member


@dataclass(frozen=True, slots=True)
class NodeLost:
    peer_id: str


@dataclass(frozen=True, slots=True)
class NodeReady:
    peer_id: str
    ready: StageReady


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node reports that its stage cannot go on; `suspect` names the neighbour it lost, if that is why."""

    peer_id: str
    ring: str
    epoch: int
    reason: str
    suspect: str = ""


@dataclass(frozen=True, slots=True)
class RingStuck:
    """A ring that holds rows computed nothing for as long as a lease lasts, and none of its nodes says why."""

    ring: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = NodeJoined | NodeLost | NodeReady | NodeFailed | RingStuck | Tick


@dataclass(frozen=True, slots=True)
class Send:
    peer_id: str
    message: Assign | Begin | Release


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the node why and close its channel."""

    peer_id: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class RingServes:
    ring: str
    epoch: int
    head: str


@dataclass(frozen=True, slots=True)
class RingEnded:
    """Its leases end: after a grace for the head's token logs where the head lives, at once where it does not."""

    ring: str
    epoch: int
    head_lives: bool
    failed: bool = False
    """It could not go on, which may be the fault of a row; not so where a node left or the ring was cut anew."""


Action = Send | Refuse | RingServes | RingEnded
