"""What a run says of its rings' plans: what was predicted, what came of it, and nothing where nothing was measured."""

from __future__ import annotations

import json
from dataclasses import asdict

from deserve_coordinator.fleet import Fleet, Policy, Ring
from deserve_coordinator.fleet_view import network_object
from deserve_coordinator.link_shapes import LinkShapes
from deserve_coordinator.planner import ModelShape
from deserve_network.control_messages import ModelRef, PlanReport, StagePlace, Stats
from deserve_testnet.report import Load, RunReport

PLACES = tuple(StagePlace(name, name, (), 4 * n, 4 * n + 4) for n, name in enumerate(("ann", "ben")))


def plan(**changes):
    usual = {
        "microbatches": 8,
        "rows_per_microbatch": 32,
        "step_budget_s": 0.15,
        "swap_pages": (0, 20),
        "prefetch_depth": 1,
        "coalesce": 1,
        "codec": "raw",
        "bound": "the computing of stage 1",
        "predicted_tokens_per_s": 200.0,
        "predicted_utilisation": (0.5, 0.99),
        "predicted_finish_s": 0.0,
        "measured_tokens_per_s": 190.0,
        "measured_utilisation": (0.48, 0.95),
        "steady_s": 12.0,
        "all_steps_s": 20.0,
        "all_steps_predicted_s": 19.0,
        "plans": 2,
    }
    return PlanReport(**{**usual, **changes})


def view(tokens, report, *, busy_s=1.0, seconds=2.0):
    """What the coordinator says of a ring of two whose head reported `report`."""
    policy = Policy(ModelRef("m", "", "", "float32"), ModelShape(8, 1), LinkShapes(), 2, "r")
    ring = Ring("r-1", 1, PLACES, 0.0, (None, None), serving=True)
    told = Stats("r-1", 1, 1.0, busy_s, seconds, 3, tokens, 0, 1, 0, 0, 0.0, completion_tokens=tokens, plan=report)
    behind = Stats("r-1", 1, 1.0, busy_s, seconds + 8, 3, tokens, 0, 1, 0, 0, 0.0)
    found = network_object(Fleet(policy, rings={"r-1": ring}), {"ann": told, "ben": behind})
    return json.loads(json.dumps(found))  # as it comes over HTTP


def report_of(load):
    return RunReport(8, 8, 0, 80, 160, 2.0, 80.0, load.stages, 8, 32, 1.0, "out.jsonl", load.plans)


def test_a_run_shows_what_was_predicted_beside_what_was_measured():
    load = Load()
    load.add(view(0, None, busy_s=0.5, seconds=1.0))
    load.add(view(100, plan(), busy_s=1.0, seconds=2.0))
    report = report_of(load)
    (shown,) = json.loads(json.dumps(report.as_json()))["plans"]
    assert shown == {"ring": "r-1", "ratio": 0.95, "finish_s": 0.0, **json.loads(json.dumps(asdict(plan())))}
    text = report.as_text()
    assert "8 microbatches of 32 rows, steps of 150 ms at most, 20 pages swapped, raw; made 2 times" in text
    assert "predicted 200.0 tokens/s, bound by the computing of stage 1" in text
    assert "190.0 tokens/s over 12.0 s of steady state, 95.0% of what was predicted" in text
    assert "50% busy (steady 95%, predicted 99%)" in text


def test_stages_that_waited_for_others_to_load_are_no_less_busy():
    load = Load()
    load.add(view(0, None, busy_s=0.0, seconds=1.0))
    load.add(view(100, None, busy_s=3.0, seconds=5.0))
    load.add(view(100, None, busy_s=3.0, seconds=50.0))
    assert [stage.busy_fraction for stage in load.stages] == [0.75, 0.75]


def test_the_plan_of_the_work_is_kept_when_the_ring_falls_idle():
    load = Load()
    load.add(view(100, plan()))
    load.add(view(100, plan(microbatches=1, predicted_tokens_per_s=7.0)))
    assert [shown.microbatches for shown in load.plans] == [8]


def test_the_end_that_was_predicted_first_is_held_against_the_last_token():
    load = Load()
    load.add(view(0, plan(predicted_finish_s=9.0), seconds=1.0))
    load.add(view(10, plan(predicted_finish_s=20.0), seconds=3.0))
    load.add(view(500, plan(predicted_finish_s=2.0), seconds=24.0))
    load.add(view(500, plan(predicted_finish_s=1.0), seconds=30.0))
    (shown,) = load.plans
    assert (shown.predicted_finish_s, shown.finish_s) == (20.0, 21.0)
    assert "finish    after 21.0 s, 20.0 s were predicted" in report_of(load).as_text()


def test_a_run_without_a_steady_state_claims_none():
    load = Load()
    load.add(view(100, plan(steady_s=0.0, measured_tokens_per_s=0.0, measured_utilisation=())))
    assert load.plans[0].ratio is None
    text = report_of(load).as_text()
    assert "measured  no steady state; all steps took 20.0 s, 19.0 s were predicted for them" in text
    assert "(steady" not in text


def test_a_ring_without_a_plan_has_no_line_for_it():
    load = Load()
    load.add(view(100, None))
    assert load.plans == ()
    assert "predicted" not in report_of(load).as_text()
