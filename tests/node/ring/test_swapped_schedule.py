"""Random schedules of the real scheduler against the real ledger of a stage that swaps: no step is ever composed whose
pages the stage cannot bring together, and every row ends once, with its own tokens."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.ring_messages import SampledToken
from deserve_node.engine.ledger import Ledger, Transfer
from deserve_node.engine.pages import PoolShape
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.cost import StageCost
from deserve_plan.plan import RingPlan


class Stage:
    """A ledger whose copies are done as soon as they are ordered."""

    def __init__(self, shapes: list[PoolShape]) -> None:
        self.ledger = Ledger(shapes)

    def run(self, plan: StepPlan) -> None:
        if plan.tune is not None:
            self.ledger.tune(plan.tune.microbatches, plan.tune.swap_pages[0], plan.tune.prefetch_depth)
        number, transfers = self.ledger.begin(plan.microbatch, plan.released, plan.chunks)
        self._copy(transfers)
        assert self.ledger.ready(number)
        self.ledger.tables(number)
        self._copy(self.ledger.end(number))

    def _copy(self, transfers: list[Transfer]) -> None:
        while transfers:
            transfers += self.ledger.done(transfers.pop(0))


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=24),
    device=st.integers(6, 24),
    host=st.integers(4, 60),
    window=st.sampled_from([0, 16]),
    swap=st.integers(1, 6),
    microbatches=st.integers(1, 6),
    depth=st.integers(1, 2),
    page_tokens=st.sampled_from([8, 16]),
    in_flight=st.integers(1, 5),
)
def test_every_step_finds_its_pages_and_every_row_ends(
    lengths: list[tuple[int, int]],
    device: int,
    host: int,
    window: int,
    swap: int,
    microbatches: int,
    depth: int,
    page_tokens: int,
    in_flight: int,
) -> None:
    shapes = [PoolShape(reach, 0, device, host, page_tokens) for reach in ({0, window} if window else {0})]
    plan = RingPlan(microbatches, 4, 64.0, (swap,), prefetch_depth=depth)
    scheduler = Scheduler(
        KvBudget([shapes]), plan, [StageCost(0.0, 1.0)], plan_for=lambda *_: plan, max_rows=24, max_tokens=64
    )
    stage = Stage(shapes)
    rows: dict[int, tuple[Row, int]] = {}
    for key, (prompt, new) in enumerate(lengths):
        row = Row(key, (key,) * prompt, most_new=new)
        if scheduler.can_ever_run(row):
            rows[key] = (row, new)
            scheduler.add(row)
    ended: set[int] = set()
    under_way: deque[StepPlan] = deque()
    for _ in range(20_000):
        step = scheduler.next_step() if len(under_way) < in_flight else None
        for failed in scheduler.take_failed():
            assert failed.length // page_tokens + 1 >= device, "only a row that fills the device alone may fail"
            ended.add(failed.key)
        if step is not None:
            stage.run(step)
            under_way.append(step)
        elif under_way:
            back = under_way.popleft()
            drawn = [SampledToken(c.sequence, c.start + c.count, 1) for c in back.chunks if c.wanted]
            for row, _ in scheduler.complete(back.step, back.microbatch, drawn):
                if len(row.generated) == rows[row.key][1]:
                    assert row.key not in ended
                    ended.add(row.key)
                    scheduler.finish(row)
        else:
            break
    assert ended == rows.keys()
    assert scheduler.budget.used == 0
