"""What no stage could say of itself is found, by the name of its field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deserve_network.control_messages import CostFit, KvPool, LinkMeasure, StageReady
from deserve_network.stage_ready import ready_fault

SOUND = StageReady(
    "r", 1, 0, 16, 1024, (KvPool(0, 0, 10),), 0.0, 0.0, CostFit(0.01, 0.0, 0.0, 0.0, 0.0, 1), LinkMeasure(0, 0, 0, 0),
    "m", 1, 1, True,
)  # fmt: skip


def test_a_sound_stage_has_no_fault() -> None:
    assert ready_fault(SOUND) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"page_tokens": 0}, "page_tokens"),
        ({"threads": 0}, "threads"),
        ({"pools": (KvPool(0, 0, 0),)}, "pools[0].pages"),
        ({"pools": (KvPool(0, 0, 5), KvPool(128, 0, 5, -1))}, "pools[1].host_pages"),
        ({"copy_in_bytes_per_s": -1.0}, "copy_in_bytes_per_s"),
        ({"cost": CostFit(0.01, 0.0, 0.0, 0.0, 0.0, 0)}, "cost.granularity"),
        ({"cost": CostFit(0.01, 0.0, -1e-9, 0.0, 0.0, 1)}, "cost.wanted_s"),
        ({"cost": CostFit(0.0, 0.0, 1.0, 0.0, 0.0, 1)}, "cost"),
        ({"link": LinkMeasure(-0.1, 0.0, 0.0, 0.0)}, "link.latency_s"),
    ],
)
def test_a_field_that_no_stage_could_have_is_named(changes: dict[str, Any], field: str) -> None:
    fault = ready_fault(dataclasses.replace(SOUND, **changes))
    assert fault is not None
    assert fault[0] == field
