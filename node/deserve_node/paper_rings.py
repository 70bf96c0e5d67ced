"""Rings on paper from what this project knows: a model's shape, or a stage profile, beside the file of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deserve_models import inspect, resolve
from deserve_models.inspection import DTYPE_SIZES
from deserve_node.timed.profile import StageProfile, load_profile
from deserve_plan.figures import RingFigures, StageFigures, StageMemory
from deserve_plan.paper import ModelShape, PaperError, PaperNode, cut_layers, paper_ring
from deserve_plan.paper_file import read_paper_file

__all__ = ["PaperRing", "from_model", "from_profile", "stage_figures"]

_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class PaperRing:
    names: tuple[str, ...]
    layers: tuple[int, ...]
    """Of each stage; empty where a profile says what stages take."""
    figures: RingFigures


def from_model(nodes: Path, model: str, dtype: str) -> PaperRing:
    """The ring of the nodes in file `nodes` that serves `model`. Raises `ModelError`, or `PaperError` naming the file
    and what is wrong there."""
    paper = read_paper_file(nodes)
    summary = inspect(resolve(model), dtype=dtype)
    shape = ModelShape(
        summary.num_layers,
        summary.hidden_size,
        DTYPE_SIZES[dtype],
        summary.vocab_size,
        max(summary.layer_bytes),
        summary.head_bytes,
        summary.tail_bytes,
        summary.kv_bytes_per_token_layer,
    )
    try:
        layers = cut_layers(shape, paper.nodes)
        figures = paper_ring(shape, paper.nodes, layers, paper.links)
    except PaperError as error:
        raise PaperError(f"{nodes}: {error}") from error
    return PaperRing(tuple(node.name for node in paper.nodes), tuple(layers), figures)


def from_profile(nodes: Path, profile: Path) -> PaperRing:
    """A ring whose stages take and hold what `profile` says; the file `nodes` says which and how they are linked.

    Raises `PaperError` or `ProfileError`, naming file and key.
    """
    paper = read_paper_file(nodes, costs=False)
    stages = load_profile(profile)
    last = len(paper.nodes) - 1
    figures = RingFigures(
        tuple(stage_figures(stages.of(i), node, is_tail=i == last) for i, node in enumerate(paper.nodes)),
        tuple(link.figures(node.uplink_mbit) for node, link in zip(paper.nodes, paper.links, strict=True))
        if last
        else (),
        stages.common.hidden,
        DTYPE_SIZES[stages.common.dtype],
    )
    return PaperRing(tuple(node.name for node in paper.nodes), (), figures)


def stage_figures(profile: StageProfile, node: PaperNode, *, is_tail: bool) -> StageFigures:
    """A timed stage on `node`, of which only the processor and what frames cost it are looked at."""
    memory = StageMemory(
        profile.page_tokens,
        profile.device_pages,
        profile.page_bytes,
        profile.host_pages,
        profile.copy_in_gb_per_s * _GIGA,
        profile.copy_out_gb_per_s * _GIGA,
    )
    # A timed stage only waits: no core is taken by it.
    return StageFigures(
        profile.cost(is_tail=is_tail), memory, node.machine, node.cores, node.threads, node.frame, False
    )
