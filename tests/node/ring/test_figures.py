from __future__ import annotations

from deserve_network.control_messages import CostFit, KvPool, LinkMeasure, StageReady
from deserve_node.ring.figures import ring_figures
from deserve_plan.cost import StageCost
from deserve_plan.figures import MEASURED_FRAME, FrameCost, LinkFigures


def ready(stage: int, *pools: KvPool) -> StageReady:
    return StageReady(
        ring="r",
        epoch=1,
        stage=stage,
        page_tokens=16,
        page_bytes=1000,
        pools=pools,
        copy_in_bytes_per_s=5e9,
        copy_out_bytes_per_s=4e9,
        cost=CostFit(0.01, 0.001, 0.002, 1e-6, 1e-7, 16),
        link=LinkMeasure(0.02, 0.003, 1e6, 0.1),
        machine="m",
        cores=8,
        threads=2,
        occupies_cores=True,
    )


def test_figures_are_what_the_stages_said() -> None:
    figures = ring_figures([ready(0, KvPool(0, 0, 50)), ready(1, KvPool(0, 0, 40, 70))], hidden=64, value_bytes=2)
    stage = figures.stages[1]
    assert stage.cost == StageCost(0.01, 0.001, 0.002, 1e-6, 1e-7, 16)
    assert (stage.memory.device_pages, stage.memory.host_pages, stage.memory.copy_out_bytes_per_s) == (40, 70, 4e9)
    assert (stage.machine, stage.cores, stage.threads, stage.frame) == ("m", 8, 2, MEASURED_FRAME)
    assert figures.links == (LinkFigures(0.02, 0.003, 1e6, 0.1),) * 2


def test_rows_fill_the_pool_that_looks_back_furthest() -> None:
    figures = ring_figures([ready(0, KvPool(128, 0, 9), KvPool(0, 0, 50))], hidden=64, value_bytes=2)
    assert figures.stages[0].memory.device_pages == 50
    windows = ring_figures([ready(0, KvPool(128, 0, 9), KvPool(512, 64, 5))], hidden=64, value_bytes=2)
    assert windows.stages[0].memory.device_pages == 9


def test_a_ring_of_one_has_no_links_and_no_frames() -> None:
    figures = ring_figures([ready(0, KvPool(0, 0, 50))], hidden=64, value_bytes=2)
    assert (figures.links, figures.stages[0].frame) == ((), FrameCost())
