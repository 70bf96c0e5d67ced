"""A window between two looks at a network: rates by the head's clock, and no rate where there was none to measure."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest

from deserve_testnet.errors import TestnetError
from deserve_testnet.window import measure_window, window_between


def stage(node, layers, seconds, busy_s, steps):
    return {"node": node, "layers": layers, "since_begin_s": seconds, "busy_s": busy_s, "steps": steps}


def view(seconds, tokens, *, epoch=1, state="serving", busy_s=0.0):
    return {
        "rings": [
            {
                "ring": "r",
                "epoch": epoch,
                "state": state,
                "since_begin_s": seconds,
                "completion_tokens": tokens,
                "prompt_tokens": 2 * tokens,
                "rows_active": 9,
                "stages": [
                    stage("ann", [0, 4], seconds, busy_s, int(10 * seconds)),
                    stage("ben", [4, 8], seconds + 1, busy_s / 2, int(10 * seconds)),
                ],
            }
        ]
    }


def test_rates_go_by_the_clocks_of_those_who_counted():
    window = window_between(view(10.0, 100), view(14.0, 500, busy_s=3.0), {"ann": 1.5, "ben": 0.5}, 4.0)
    assert (window.tokens, window.prompt_tokens, window.tokens_per_s) == (400, 800, 100.0)
    assert [(one.node, one.layers, one.utilisation, one.steps) for one in window.stages] == [
        ("ann", (0, 4), 0.75, 40),
        ("ben", (4, 8), 0.375, 40),
    ]
    assert window.cores_busy == 0.5
    assert window.rows_active == 9


@pytest.mark.parametrize("after", [view(14.0, 500, epoch=2), view(14.0, 500, state="loading"), view(10.0, 100)])
def test_rings_that_change_or_stand_still_have_no_rate(after):
    with pytest.raises(TestnetError, match="measured"):
        window_between(view(10.0, 100), after, {}, 4.0)


async def test_only_reports_newer_than_the_question_count():
    """The coordinator repeats a node's last report until the next one comes."""
    views = [view(10.0, 100), view(10.0, 100), view(11.0, 150), view(11.0, 150), view(13.0, 350)]

    async def read():
        return views.pop(0)

    node = SimpleNamespace(name="ann", pid=os.getpid())
    gone = SimpleNamespace(name="ben", pid=2**22 + 1)
    net = SimpleNamespace(view=SimpleNamespace(read=read), coordinator=node, nodes=[gone], internet=None)
    async with asyncio.timeout(10):
        window = await measure_window(net, 0.0)
    assert (window.tokens, window.tokens_per_s) == (200, 100.0)
    assert list(window.cpu_s) == ["ann"]
    assert window.cpu_s["ann"] >= 0.0
