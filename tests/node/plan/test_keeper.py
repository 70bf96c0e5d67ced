"""The keeper against rings whose steps take what the test says."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence

import pytest

from deserve_network.control_messages import PlanReport
from deserve_plan.cost import StageCost, StepLoad
from deserve_plan.figures import LinkFigures, RingFigures, StageFigures, StageMemory, Workload
from deserve_plan.keeper import PlanKeeper, Report, ReturnedStep
from deserve_plan.plan import PlanOverrides

WORKLOAD = Workload(64, 64)
STAGES = 4


def figures(fixed_s: float = 0.02, latency_s: float = 0.05, **others: object) -> RingFigures:
    stage = StageFigures(StageCost(fixed_s, 0.0005), StageMemory(16, 100_000), occupies_cores=False)
    stage = dataclasses.replace(stage, **others)
    return RingFigures((stage,) * STAGES, (LinkFigures(latency_s),) * STAGES, hidden=64, value_bytes=4)


def linked(bytes_per_s: float) -> RingFigures:
    links = (LinkFigures(0.05, bytes_per_s=bytes_per_s),) * STAGES
    return dataclasses.replace(figures(), links=links)


class Ring:
    """Steps that come back at a steady rate, as a ring with `true` figures would let them."""

    def __init__(self, keeper: PlanKeeper, true: RingFigures) -> None:
        self.keeper = keeper
        self.true = true
        self.now_s = 0.0

    def run(
        self, steps: int, *, prompt: int | None = None, crowding: float = 1.0, waited_s: Sequence[float] = ()
    ) -> None:
        plan = self.keeper.plan
        for _ in range(steps):
            rows = plan.rows_per_microbatch
            new = rows * 63 // 64 + (rows if prompt is None else prompt)
            load = StepLoad(new, rows)
            compute = [stage.cost.step_s(load) * crowding for stage in self.true.stages]
            trip = sum(compute) + sum(link.latency_s for link in self.true.links)
            slot = max(*compute, *(new * 256 / link.bytes_per_s for link in self.true.links if link.bytes_per_s))
            slot = max(slot, *waited_s, 0)
            # Cores that several stages crowd are never idle, however long a trip takes.
            self.now_s += slot if crowding > 1 else max(slot, trip / plan.microbatches)
            self.keeper.returned(
                ReturnedStep(
                    self.now_s,
                    load,
                    rows if prompt is None else prompt,
                    rows,
                    new * 256,
                    compute,
                    plan.microbatches * rows,
                    plan.microbatches,
                    [2 * link.latency_s for link in self.true.links],
                    waited_s,
                )
            )


def windows(keeper: PlanKeeper, count: int) -> int:
    return 1 + count * max(20, 2 * keeper.plan.microbatches)


def keeper_of(measured: RingFigures) -> PlanKeeper:
    return PlanKeeper(measured, WORKLOAD, max_rows=400)


def settle(keeper: PlanKeeper) -> bool:
    question = keeper.due()
    return question is not None and keeper.adopt(question, question.renew(keeper.plan))


def test_a_ring_that_does_as_planned_keeps_its_plan() -> None:
    keeper = keeper_of(figures())
    Ring(keeper, figures()).run(windows(keeper, 6))
    assert keeper.due() is None
    assert keeper.report().plans == 1


def test_what_was_measured_in_the_steady_state_is_reported_beside_what_was_predicted() -> None:
    keeper = keeper_of(figures())
    assert keeper.report().measured_tokens_per_s == 0.0
    Ring(keeper, figures()).run(windows(keeper, 3))
    report = keeper.report()
    assert report.measured_tokens_per_s == pytest.approx(report.predicted_tokens_per_s, rel=0.03)
    assert report.measured_utilisation == pytest.approx(report.predicted_utilisation, rel=0.05)
    assert report.steady_s > 0


def test_slower_stages_lead_to_a_plan_that_is_true_again() -> None:
    keeper, true = keeper_of(figures()), figures(fixed_s=0.06)
    ring = Ring(keeper, true)
    before = keeper.plan
    ring.run(windows(keeper, 2))
    assert settle(keeper)
    assert keeper.plan.microbatches < before.microbatches
    ring.run(windows(keeper, 3))
    assert keeper.due() is None
    report = keeper.report()
    assert report.plans == 2
    assert report.measured_tokens_per_s == pytest.approx(report.predicted_tokens_per_s, rel=0.05)


def test_one_window_of_trouble_is_no_drift() -> None:
    keeper = keeper_of(figures())
    ring = Ring(keeper, figures())
    ring.run(windows(keeper, 1))
    ring.true = figures(fixed_s=0.06)
    ring.run(windows(keeper, 1) - 1)
    ring.true = figures()
    ring.run(windows(keeper, 3))
    assert keeper.due() is None


def test_latency_that_grew_asks_for_more_microbatches() -> None:
    keeper = keeper_of(figures(latency_s=0.02))
    before = keeper.plan.microbatches
    ring = Ring(keeper, figures(latency_s=0.2))
    ring.run(windows(keeper, 2))
    assert settle(keeper)
    assert keeper.plan.microbatches > 2 * before


def test_a_link_that_carries_more_than_was_measured_is_believed() -> None:
    keeper = keeper_of(linked(3e5))
    before = keeper.report().predicted_tokens_per_s
    assert "uplink" in keeper.report().bound
    ring = Ring(keeper, figures())
    ring.run(windows(keeper, 2))
    settle(keeper)
    ring.run(windows(keeper, 4))
    settle(keeper)
    assert keeper.figures.links[0].bytes_per_s > 3.3e5
    assert keeper.report().predicted_tokens_per_s > 1.1 * before


def test_a_link_that_carries_less_than_was_measured_is_believed() -> None:
    keeper = keeper_of(linked(1.2e6))
    ring = Ring(keeper, linked(0.15e6))
    ring.run(windows(keeper, 3))
    settle(keeper)
    assert keeper.figures.links[0].bytes_per_s == pytest.approx(0.15e6, rel=0.05)
    ring.run(windows(keeper, 4))
    report = keeper.report()
    assert report.bound == "uplink of stage 0"
    assert report.measured_tokens_per_s == pytest.approx(report.predicted_tokens_per_s, rel=0.05)


def test_short_cores_are_not_blamed_on_a_link() -> None:
    shared = dataclasses.replace(linked(1.2e6).stages[0], machine="here", cores=2, threads=1, occupies_cores=True)
    measured = dataclasses.replace(linked(1.2e6), stages=(shared,) * STAGES)
    keeper = keeper_of(measured)
    ring = Ring(keeper, dataclasses.replace(measured, links=linked(0.15e6).links))
    ring.run(windows(keeper, 3))
    assert keeper.figures.links[0].bytes_per_s == 1.2e6


def test_copies_that_take_longer_than_was_measured_are_believed() -> None:
    memory = StageMemory(16, 600, 1 << 16, 10_000, 1e9, 1e9)
    keeper = keeper_of(figures(memory=memory))
    assert any(keeper.plan.swap_pages)
    ring = Ring(keeper, figures(memory=memory))
    ring.run(windows(keeper, 1), waited_s=[0.2] * STAGES)
    slower = [stage.memory.copy_in_bytes_per_s for stage in keeper.figures.stages]
    pages = keeper.plan.swap_pages[0]
    assert max(slower) <= pages * memory.page_bytes / 0.2
    ring.run(windows(keeper, 1), waited_s=[0.001] * STAGES)
    assert [stage.memory.copy_in_bytes_per_s for stage in keeper.figures.stages] == slower


def test_filling_is_no_drift() -> None:
    keeper = keeper_of(figures())
    Ring(keeper, figures()).run(windows(keeper, 4), prompt=300)
    assert keeper.due() is None
    assert keeper.report().measured_tokens_per_s == 0.0


def test_rows_that_are_longer_than_planned_for_make_a_plan_due() -> None:
    keeper = keeper_of(figures())
    for _ in range(20):
        keeper.row_started(512, 64)
    question = keeper.due()
    assert question is not None
    assert question.workload.prompt_tokens == pytest.approx(512)
    keeper.adopt(question, question.renew(keeper.plan))
    assert keeper.due() is None


def test_a_plan_that_another_hardly_beats_is_kept_and_expects_what_rows_have_become() -> None:
    keeper = keeper_of(figures())
    before, expected = keeper.plan, keeper.report().predicted_tokens_per_s
    for _ in range(400):
        keeper.row_started(96, 64)
    settle(keeper)
    assert keeper.due() is None
    assert (keeper.plan.microbatches, keeper.plan.rows_per_microbatch) == (
        before.microbatches,
        before.rows_per_microbatch,
    )
    assert keeper.report().predicted_tokens_per_s < expected
    assert keeper.plan.step_budget_s > before.step_budget_s


def test_the_prediction_follows_the_rows_before_a_new_plan_is_due() -> None:
    keeper = keeper_of(figures())
    before = keeper.report().predicted_tokens_per_s
    for _ in range(400):
        keeper.row_started(72, 64)
    assert keeper.due() is None
    assert keeper.report().predicted_tokens_per_s < before


def test_a_ring_plans_for_the_codec_of_its_rows() -> None:
    slow = dataclasses.replace(figures(), links=(LinkFigures(0.05, bytes_per_s=2e5),) * STAGES)
    keeper = keeper_of(slow)
    raw = keeper.report().predicted_tokens_per_s
    for _ in range(20):
        keeper.row_started(64, 64, "int8")
    assert settle(keeper)
    assert keeper.plan.codec == "int8"
    assert keeper.report().predicted_tokens_per_s > 1.5 * raw
    assert keeper.due() is None


def test_all_steps_are_compared_with_what_their_plan_gives_for_them() -> None:
    keeper = keeper_of(figures())
    Ring(keeper, figures()).run(windows(keeper, 4), prompt=300)
    report = keeper.report()
    assert report.steady_s == 0.0
    assert report.all_steps_s == pytest.approx(report.all_steps_predicted_s, rel=0.03)


def test_rows_that_leave_do_not_keep_the_others_from_being_believed() -> None:
    keeper = keeper_of(figures())
    for _ in range(1000):
        keeper.row_started(64, 64)
    for _ in range(60):
        keeper.row_ended(64, 8)
    assert keeper.workload.new_tokens == 64
    for _ in range(900):
        keeper.row_left()
    assert keeper.workload.new_tokens == pytest.approx(8)


def test_rows_that_stop_early_count_once_most_have_ended() -> None:
    keeper = keeper_of(figures())
    for _ in range(100):
        keeper.row_started(64, 64)
    for _ in range(20):
        keeper.row_ended(64, 8)
    assert keeper.workload.new_tokens == 64
    for _ in range(40):
        keeper.row_ended(64, 8)
    assert keeper.workload.new_tokens == pytest.approx(8)


def test_stages_that_crowd_each_others_cores_do_not_count_as_slower() -> None:
    shared = figures(occupies_cores=True, machine="m", cores=1, threads=1)
    keeper = keeper_of(shared)
    # Four stages on one core, all at once: each takes four times as long as alone, and so it was planned.
    Ring(keeper, shared).run(windows(keeper, 4), crowding=4.0)
    assert keeper.due() is None
    assert keeper.figures.stages[0].cost.fixed_s == pytest.approx(0.02, rel=0.1)


def test_a_drift_that_no_plan_cures_is_asked_about_ever_less_often() -> None:
    keeper = keeper_of(figures())
    questions = 0
    ring = Ring(keeper, figures())
    for _ in range(60):
        ring.run(20)
        ring.now_s += 20.0  # something that is in no figure
        questions += settle(keeper) or keeper.due() is not None
    assert questions <= 4


def test_a_report_has_the_fields_of_its_message_that_follow_from_the_plan() -> None:
    reported = [name for name in typing.get_type_hints(PlanReport) if name != "predicted_finish_s"]
    assert list(typing.get_type_hints(Report)) == reported


def test_more_rows_than_a_step_takes_cannot_be_set_by_hand() -> None:
    with pytest.raises(ValueError, match="rows: a step takes 64 tokens"):
        PlanKeeper(figures(), WORKLOAD, max_rows=400, step_tokens=64, overrides=PlanOverrides(rows=65))


def test_what_is_set_by_hand_stays_and_is_predicted_as_it_is() -> None:
    keeper = PlanKeeper(figures(), WORKLOAD, max_rows=4000, overrides=PlanOverrides(microbatches=3, rows=90))
    assert (keeper.plan.microbatches, keeper.plan.rows_per_microbatch) == (3, 90)
    assert keeper.plan.predicted is not None
    assert keeper.plan.predicted.bound == "latency"
    assert keeper.plan.predicted.tokens_per_s == pytest.approx(270 / (4 * (0.02 + 0.0005 * 90 * 127 / 64) + 0.2))
    Ring(keeper, figures(fixed_s=0.2)).run(windows(keeper, 4))
    assert keeper.due() is None
