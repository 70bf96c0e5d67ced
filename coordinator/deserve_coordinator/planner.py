"""Cuts a model's layers over nodes. Pure: numbers in, layer ranges out.

Memory rule: a stage fills at most 90 % of what its node lends with weights plus `kv_tokens` tokens of KV for each of
its layers (by default one full context, 4,096 tokens at most); whatever remains becomes KV too. The first stage also
holds the embedding and the last one the output head, `edge_bytes` each; a ring of one stage is counted with both.

Speed rule: the slowest stage sets the pace of a ring, so the cut minimises the largest stage time. The output head is
a matrix product over the vocabulary; its time is taken as that of `edge_bytes / layer_bytes` layers. Giving one layer
at a time to the stage that would then be fastest is optimal here, because stage times only grow. Of stages that would
be equally fast, those between the ends come first, because the head also schedules and the tail samples. A node's time
was measured once, on a machine that may have been busy: one within 25 % of the fastest counts as equally fast, and so
do nodes of one speed class, which share a machine and have disturbed each other's measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deserve_coordinator.errors import PlanError

__all__ = ["Capacity", "ModelShape", "arrange", "choose", "cut", "holds_a_layer", "layer_limit", "paces"]

_USABLE = 0.9
_SAME_PACE = 1.25


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one node offers. Bytes are of the swarm's model in the swarm's precision, times in seconds."""

    memory_bytes: int
    layer_time_s: float
    layer_bytes: int
    edge_bytes: int
    kv_bytes_per_token_layer: int
    speed_class: str = ""
    """Nodes of one class are equally fast whatever each has measured; "" is a class of its own."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    num_layers: int
    kv_tokens: int
    """Tokens of KV that a stage must have room for on each of its layers."""


def layer_limit(node: Capacity, shape: ModelShape, edges: int) -> int:
    """How many layers the node can hold beside `edges` edges (0, 1 or 2)."""
    room = int(node.memory_bytes * _USABLE) - edges * node.edge_bytes
    return max(0, room // (node.layer_bytes + shape.kv_tokens * node.kv_bytes_per_token_layer))


def holds_a_layer(node: Capacity, shape: ModelShape, ring_size: int | None) -> bool:
    """Whether there is a ring in which the node could be a stage; in rings of one or two, every stage has an edge."""
    edges = {1: 2, 2: 1}.get(ring_size or 0, 0)
    if shape.num_layers <= 2:
        edges = max(edges, 1)
    return layer_limit(node, shape, edges) >= 1


def _edges(stage: int, stages: int) -> int:
    return (stage == 0) + (stage == stages - 1)


def arrange(nodes: Sequence[Capacity]) -> list[int]:
    """An order of the nodes as stages: the two with most memory at the ends, where the edges are."""
    by_memory = sorted(range(len(nodes)), key=lambda i: -nodes[i].memory_bytes)
    if len(by_memory) < 2:
        return by_memory
    first, last = by_memory[0], by_memory[1]
    return [first, *(i for i in range(len(nodes)) if i not in (first, last)), last]


def paces(nodes: Sequence[Capacity]) -> list[float]:
    """Seconds a layer takes on each node, differences within a class and small ones levelled."""
    best: dict[str, float] = {}
    for node in nodes:
        best[node.speed_class] = min(best.get(node.speed_class, node.layer_time_s), node.layer_time_s)
    times = [best[node.speed_class] if node.speed_class else node.layer_time_s for node in nodes]
    fastest = min(times)
    return [fastest if time < fastest * _SAME_PACE else time for time in times]


def cut(nodes: Sequence[Capacity], shape: ModelShape) -> list[tuple[int, int]]:
    """Layer ranges [first, last) for the nodes in their order as stages. Raises `PlanError` where they do not fit."""
    count = len(nodes)
    if not 1 <= count <= shape.num_layers:
        raise PlanError(f"{count} stages for {shape.num_layers} layers")
    limits = [layer_limit(node, shape, _edges(i, count)) for i, node in enumerate(nodes)]
    if min(limits) < 1:
        raise PlanError(f"stage {limits.index(0)} has no memory for a layer")
    if sum(limits) < shape.num_layers:
        raise PlanError(f"memory for {sum(limits)} of {shape.num_layers} layers")
    pace = paces(nodes)
    head_time_s = pace[-1] * nodes[-1].edge_bytes / nodes[-1].layer_bytes
    layers = [1] * count

    def cost_of_one_more(i: int) -> tuple[float, int]:
        time_s = (layers[i] + 1) * pace[i] + (head_time_s if i == count - 1 else 0.0)
        return time_s, _edges(i, count)

    for _ in range(shape.num_layers - count):
        open_stages = [i for i in range(count) if layers[i] < limits[i]]
        layers[min(open_stages, key=cost_of_one_more)] += 1
    ranges, first = [], 0
    for number in layers:
        ranges.append((first, first + number))
        first += number
    return ranges


def choose(
    spares: Sequence[Capacity], shape: ModelShape, ring_size: int | None
) -> list[tuple[int, tuple[int, int]]] | None:
    """A new ring of the spares: (index of the spare, its layers) by stage, or None where they cannot form one.

    With `ring_size` the first that many spares are tried, and more only where their memory does not hold the model.
    Without, the fewest spares that hold it, those with most memory first.
    """
    order = list(range(len(spares)))
    if ring_size is None:
        order.sort(key=lambda i: (-spares[i].memory_bytes, spares[i].layer_time_s, i))
    for size in range(ring_size or 1, min(len(spares), shape.num_layers) + 1):
        members = sorted(order[:size])
        stages = [members[i] for i in arrange([spares[m] for m in members])]
        try:
            ranges = cut([spares[m] for m in stages], shape)
        except PlanError:
            continue
        return list(zip(stages, ranges, strict=True))
    return None
