"""A timed stage in the place of a loaded one."""

from __future__ import annotations

from dataclasses import astuple

from deserve_models import ModelFiles, inspect
from deserve_network.control_messages import CostFit, Offer
from deserve_node.engine.ledger import Ledger
from deserve_node.engine.mover import PacedMover
from deserve_node.engine.swap import Swapper
from deserve_node.loaded_stage import LoadedStage
from deserve_node.timed.engine import TimedEngine
from deserve_node.timed.profile import RingProfile, StageProfile
from deserve_plan.cost import StepLoad

__all__ = ["timed_offer", "timed_stage"]

_GIGA = 1e9
_SPEED_CLASS = "timed"


def timed_offer(ring: RingProfile, files: ModelFiles) -> Offer:
    """What a node with this profile tells of itself. It holds no weights, so any number of layers fits; how long a
    stage takes does not depend on them, so all nodes count as equally fast."""
    step_s = ring.common.cost(is_tail=False).step_s(StepLoad(tokens=64))
    return Offer(files.digest, min(max(step_s, 1e-6), 3599.0), _SPEED_CLASS, 1, 0, 0)


def timed_stage(ring: RingProfile, files: ModelFiles, *, stage: int, stages: int) -> LoadedStage:
    """Stage `stage` of `stages` as `ring` describes it; of the model only its configuration is read."""
    profile = ring.of(stage)
    summary = inspect(files)
    engine = TimedEngine(
        profile,
        vocab_size=summary.vocab_size,
        context_length=summary.context_length,
        is_tail=stage == stages - 1,
    )
    return LoadedStage(
        engine,
        CostFit(*astuple(engine.cost)),
        occupies_cores=False,
        copy_in_bytes_per_s=profile.copy_in_gb_per_s * _GIGA,
        copy_out_bytes_per_s=profile.copy_out_gb_per_s * _GIGA,
        swapper=_swapper(engine, profile) if profile.host_pages else None,
    )


def _swapper(engine: TimedEngine, profile: StageProfile) -> Swapper:
    """The real account of pages in two memories; copies take their time and move nothing."""
    mover = PacedMover(
        [profile.page_bytes],
        in_bytes_per_s=profile.copy_in_gb_per_s * _GIGA,
        out_bytes_per_s=profile.copy_out_gb_per_s * _GIGA,
    )
    return Swapper(Ledger(engine.cache.shapes), mover)
