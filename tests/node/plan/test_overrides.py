"""A plan set by hand: any part of it, and the planner's for the rest."""

from __future__ import annotations

import pytest

from deserve_plan.plan import PlanOverrides, Prediction, RingPlan

PLANNED = RingPlan(8, 32, 0.2, (100, 200), predicted=Prediction(1.0, 2.0, (), (), "compute"))


def test_what_is_set_replaces_what_was_planned():
    overrides = PlanOverrides.parse("microbatches=20, rows=75, swap_pages=0, step_budget_ms=150.5")
    assert overrides.applied_to(PLANNED) == RingPlan(20, 75, 0.1505, (0, 0))
    assert PlanOverrides.parse("rows=75").applied_to(PLANNED) == RingPlan(8, 75, 0.2, (100, 200))


def test_nothing_set_leaves_the_plan_and_its_prediction():
    overrides = PlanOverrides.parse("")
    assert not overrides.fixes_plan
    assert overrides.applied_to(PLANNED) is PLANNED
    assert PlanOverrides.parse("swap_pages=0").fixes_plan


def test_how_others_run_a_ring_leaves_the_planning_to_the_planner():
    overrides = PlanOverrides.parse("codec=int8,chunks_in_flight=1,whole_prompts=1")
    assert (overrides.codec, overrides.chunks_in_flight, overrides.whole_prompts) == ("int8", 1, 1)
    assert not overrides.fixes_plan
    assert overrides.applied_to(PLANNED) is PLANNED


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("microbatch=3", "'microbatch=3' is not KEY=VALUE .* microbatches, rows"),
        ("75", "'75' is not KEY=VALUE"),
        ("rows", "rows: '' is no number"),
        ("rows=1.5", "rows: '1.5' is no number"),
        ("rows=0", "rows: must be from 1 to"),
        ("swap_pages=-1", "swap_pages: must be from 0 to"),
        ("step_budget_ms=nan", "step_budget_ms: must be above 0"),
        ("rows=1,rows=2", "rows is set twice"),
        ("codec=zip", "codec: 'zip' is not one of raw"),
    ],
)
def test_mistakes_are_named(text, named):
    with pytest.raises(ValueError, match=named):
        PlanOverrides.parse(text)
