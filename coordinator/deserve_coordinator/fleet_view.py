"""The body of /v1/network, all from the last Stats: who is there, which rings serve, how busy each stage is, each
ring's plan beside what was measured, and why rings failed. A stage counts from its `since_begin_s` ago, by its own
clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deserve_coordinator.fleet import Fleet, Member, Ring
from deserve_network.control_messages import StagePlace, Stats

__all__ = ["network_object"]


def _fraction(part: float, whole: float) -> float:
    return round(min(1.0, max(0.0, part / whole)), 4) if whole > 0 else 0.0


def _current(ring: Ring, stats: Stats | None) -> Stats | None:
    return stats if stats is not None and (stats.ring, stats.epoch) == (ring.id, ring.epoch) else None


def _stage(place: StagePlace, stats: Stats | None) -> dict[str, Any]:
    return {
        "node": place.name,
        "peer_id": place.peer_id,
        "layers": [place.first, place.last],
        "busy_fraction": 0.0 if stats is None else _fraction(stats.busy_s, stats.since_begin_s),
        "busy_s": 0.0 if stats is None else stats.busy_s,
        "since_begin_s": 0.0 if stats is None else stats.since_begin_s,
        "steps": 0 if stats is None else stats.steps,
        "tokens": 0 if stats is None else stats.tokens,
        "kv_used_fraction": 0.0 if stats is None else _fraction(stats.kv_pages_used, stats.kv_pages),
        "rtt_ms": 0.0 if stats is None else round(stats.rtt_ms, 3),
        "carrier": "" if stats is None else stats.carrier,
    }


def _ring(ring: Ring, stats: Mapping[str, Stats]) -> dict[str, Any]:
    head = _current(ring, stats.get(ring.stages[0].peer_id))
    return {
        "ring": ring.id,
        "epoch": ring.epoch,
        "state": "serving" if ring.serving else "loading",
        "rows_active": 0 if head is None else head.rows_active,
        "completion_tokens": 0 if head is None else head.completion_tokens,
        "prompt_tokens": 0 if head is None else head.prompt_tokens,
        "microbatches": 0 if head is None else head.microbatches,
        "rows_per_microbatch": 0 if head is None else head.rows_per_microbatch,
        "since_begin_s": 0.0 if head is None else head.since_begin_s,
        "plan": None if head is None or head.plan is None else asdict(head.plan),
        "stages": [_stage(place, _current(ring, stats.get(place.peer_id))) for place in ring.stages],
    }


def _node(member: Member, fleet: Fleet) -> dict[str, Any]:
    ring = fleet.ring_of(member.peer_id)
    state = "spare" if ring is None else "serving" if ring.serving else "loading"
    return {
        "name": member.name,
        "peer_id": member.peer_id,
        "state": state,
        "memory_bytes": member.capacity.memory_bytes,
        "layer_time_s": member.capacity.layer_time_s,
    }


def network_object(fleet: Fleet, stats: Mapping[str, Stats]) -> dict[str, Any]:
    """`stats` is the last report of each node by peer id."""
    return {
        "model": fleet.policy.model.id,
        "nodes": [_node(member, fleet) for member in fleet.nodes.values()],
        "rings": [_ring(ring, stats) for ring in fleet.rings.values()],
        "failures": [asdict(failure) for failure in fleet.failures],
    }
