"""A ring on paper: nodes and links as somebody describes them, and the figures that a ring of them would measure. Pure.

A node says what a step costs it per layer, or how fast its device is; then a layer costs its weights once a step at the
memory's bandwidth, twice its parameters in operations per token, and reading keys and values at that bandwidth again.
Those are what the device reaches, not what its data sheet promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deserve_plan.cost import StageCost
from deserve_plan.figures import MEASURED_FRAME, FrameCost, LinkFigures, RingFigures, StageFigures, StageMemory

__all__ = ["ModelShape", "PaperError", "PaperLink", "PaperNode", "cut_layers", "paper_ring"]

GIB = float(1 << 30)


class PaperError(ValueError):
    """A ring that cannot be; the text names what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a ring's figures depend on of a model; bytes are those of the precision in which it computes."""

    layers: int
    hidden: int
    value_bytes: int
    vocabulary: int
    layer_bytes: int
    """Of the largest layer."""
    head_bytes: int
    tail_bytes: int
    kv_bytes_per_token_layer: int


@dataclass(frozen=True, slots=True)
class PaperNode:
    """One node. Times are per layer; where `tflops` is given, they follow from it and `memory_gb_per_s`."""

    name: str
    memory_gib: float = 0.0
    """For weights and KV together."""
    host_memory_gib: float = 0.0
    """For KV, all of which has its place there; nothing is swapped unless it is more than what is on the device."""
    copy_gb_per_s: float = 12.0
    """Between the two, each way."""
    fixed_ms: float = 0.0
    token_ms: float = 0.0
    wanted_ms: float = 0.0
    """Each token whose logits are wanted, at the tail (not per layer)."""
    context_token_us: float = 0.0
    pair_us: float = 0.0
    tflops: float = 0.0
    memory_gb_per_s: float = 0.0
    page_tokens: int = 16
    machine: str = ""
    """Nodes of one machine share its cores."""
    cores: int = 1
    threads: int = 1
    occupies_cores: bool = False
    """Whether computing takes the machine's cores."""
    cpu_frame_ms: float = MEASURED_FRAME.step_s * 1e3
    """Processor time that a step costs beside computing, ..."""
    cpu_row_us: float = MEASURED_FRAME.row_s * 1e6
    """... each of its rows, ..."""
    cpu_byte_ns: float = MEASURED_FRAME.byte_s * 1e9
    """... and each byte of its hidden states."""
    layers: int = 0
    """0: as many as fit its speed and memory."""
    uplink_mbit: float = 0.0
    """Of what it sends; 0: as the link says."""

    @property
    def frame(self) -> FrameCost:
        return FrameCost(self.cpu_frame_ms / 1e3, self.cpu_row_us / 1e6, self.cpu_byte_ns / 1e9)


@dataclass(frozen=True, slots=True)
class PaperLink:
    """One direction of a link; 0 mbit: no bound."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    mbit: float = 0.0

    def figures(self, uplink_mbit: float) -> LinkFigures:
        """With the sender's uplink, where that is narrower."""
        bounds = [mbit for mbit in (self.mbit, uplink_mbit) if mbit]
        # Latency swings by the jitter either way; what links measure is the least, and the swing above it.
        swing_ms = min(self.jitter_ms, self.latency_ms) + self.jitter_ms
        least_ms = max(0.0, self.latency_ms - self.jitter_ms)
        return LinkFigures(least_ms / 1e3, swing_ms / 1e3, min(bounds, default=0.0) * 1e6 / 8)


def cut_layers(model: ModelShape, nodes: Sequence[PaperNode]) -> list[int]:
    """How many layers each node holds: what it says, and else so that no node takes longer than it must.

    Raises `PaperError` where the nodes do not hold the model, with a tenth of each one's memory left for KV.
    """
    counts = [node.layers for node in nodes]
    free = [index for index, node in enumerate(nodes) if not node.layers]
    left = model.layers - sum(counts)
    if left < 0 or (left and not free):
        raise PaperError(f"nodes: their layers make {sum(counts)}, the model has {model.layers}")
    if left < len(free):
        raise PaperError(f"nodes: {len(nodes)} nodes share {model.layers} layers, some would have none")
    for _ in range(left):
        fitting = [i for i in free if _weights(model, nodes, i, counts[i] + 1) <= 0.9 * nodes[i].memory_gib * GIB]
        if not fitting:
            raise PaperError(f"nodes: their memory holds {sum(counts)} of {model.layers} layers and KV beside them")
        # A node without any layer comes first: every stage needs one.
        chosen = min(fitting, key=lambda i: (counts[i] > 0, (counts[i] + 1) * _layer_s(model, nodes[i])))
        counts[chosen] += 1
    if 0 in counts:
        raise PaperError(f"nodes: {nodes[counts.index(0)].name} has no memory for a layer")
    return counts


def paper_ring(
    model: ModelShape, nodes: Sequence[PaperNode], counts: Sequence[int], links: Sequence[PaperLink]
) -> RingFigures:
    """Figures of the ring of `nodes`, in order, that hold `counts` layers; `links[i]` leads on from node i.

    Raises `PaperError` where a node has no memory for KV.
    """
    last = len(nodes) - 1
    stages = []
    for index, (node, layers) in enumerate(zip(nodes, counts, strict=True)):
        page_bytes = node.page_tokens * model.kv_bytes_per_token_layer * layers
        kv_bytes = node.memory_gib * GIB - _weights(model, nodes, index, layers)
        if kv_bytes < page_bytes:
            raise PaperError(f"nodes: {node.name}: {layers} layers leave no memory for KV")
        device_pages = int(kv_bytes / page_bytes)
        # Every page has its place in host memory, those on the device too.
        memory = StageMemory(
            node.page_tokens,
            device_pages,
            page_bytes,
            max(0, int(node.host_memory_gib * GIB / page_bytes) - device_pages),
            node.copy_gb_per_s * 1e9,
            node.copy_gb_per_s * 1e9,
        )
        cost = _stage_cost(model, node, layers, is_tail=index == last)
        stages.append(
            StageFigures(cost, memory, node.machine, node.cores, node.threads, node.frame, node.occupies_cores)
        )
    onward = tuple(link.figures(node.uplink_mbit) for node, link in zip(nodes, links, strict=False))
    return RingFigures(tuple(stages), onward if last else (), model.hidden, model.value_bytes)


def _weights(model: ModelShape, nodes: Sequence[PaperNode], index: int, layers: int) -> float:
    edges = (model.head_bytes if index == 0 else 0) + (model.tail_bytes if index == len(nodes) - 1 else 0)
    return float(layers * model.layer_bytes + edges)


def _layer_s(model: ModelShape, node: PaperNode) -> float:
    cost = _stage_cost(model, node, 1, is_tail=False)
    return cost.fixed_s + 64 * cost.token_s


def _stage_cost(model: ModelShape, node: PaperNode, layers: int, *, is_tail: bool) -> StageCost:
    if not node.tflops:
        return StageCost(
            layers * node.fixed_ms / 1e3,
            layers * node.token_ms / 1e3,
            node.wanted_ms / 1e3 if is_tail else 0.0,
            layers * node.context_token_us / 1e6,
            layers * node.pair_us / 1e6,
        )
    operations, bandwidth = node.tflops * 1e12, node.memory_gb_per_s * 1e9
    read = layers * model.layer_bytes + (model.tail_bytes if is_tail else 0)
    return StageCost(
        fixed_s=read / bandwidth,
        token_s=layers * 2 * model.layer_bytes / model.value_bytes / operations,
        wanted_s=2 * model.vocabulary * model.hidden / operations if is_tail else 0.0,
        context_s=layers * model.kv_bytes_per_token_layer / bandwidth,
        pair_s=layers * 4 * model.hidden / operations,
    )
