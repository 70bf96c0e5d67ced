"""What the stages of a ring said of themselves, as the planner's figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from deserve_network.control_messages import KvPool, StageReady
from deserve_plan.cost import StageCost
from deserve_plan.figures import MEASURED_FRAME, FrameCost, LinkFigures, RingFigures, StageFigures, StageMemory

__all__ = ["ring_figures"]


def ring_figures(stages: Sequence[StageReady], *, hidden: int, value_bytes: int) -> RingFigures:
    """Figures of the ring whose stages, in order, are ready. Hidden states have `hidden` values of `value_bytes`."""
    alone = len(stages) == 1
    return RingFigures(
        stages=tuple(
            StageFigures(
                cost=StageCost(*astuple(ready.cost)),
                memory=_memory(ready),
                machine=ready.machine,
                cores=ready.cores,
                threads=ready.threads,
                frame=FrameCost() if alone else MEASURED_FRAME,
                occupies_cores=ready.occupies_cores,
            )
            for ready in stages
        ),
        links=() if alone else tuple(LinkFigures(*astuple(ready.link)) for ready in stages),
        hidden=hidden,
        value_bytes=value_bytes,
    )


def _memory(ready: StageReady) -> StageMemory:
    """Of the pool that fills first: rows hold more pages in it the further back its layers look."""
    pool = max(ready.pools, key=_reach)
    return StageMemory(
        ready.page_tokens,
        pool.pages,
        ready.page_bytes,
        pool.host_pages,
        ready.copy_in_bytes_per_s,
        ready.copy_out_bytes_per_s,
    )


def _reach(pool: KvPool) -> float:
    return min(pool.window or float("inf"), pool.chunk or float("inf"))
