"""The scheduler against real page pools and a stand-in for compute: a token is a hash of all tokens before it."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.ring_messages import Chunk, SampledToken
from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS, PagePool, PoolShape
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Scheduler
from deserve_node.ring.step_plan import Row, StepPlan
from deserve_plan.cost import StageCost
from deserve_plan.plan import RingPlan

TOKEN_COST = StageCost(0.0, 1.0)
"""A step costs a second a token, so that time budgets are token counts."""


def next_token(tokens: list[int]) -> int:
    return zlib.crc32(bytes(str(tokens), "ascii")) % 1000


def scheduler_with(
    pages: int | list[PoolShape],
    *,
    microbatches: int = 1,
    max_rows: int = 8,
    tokens: int = 64,
    plan_for: Callable[[int, bool], RingPlan] | None = None,
    chunks_in_flight: int = 0,
    whole_prompts: bool = False,
) -> Scheduler:
    """On one stage, with `tokens` both as time budget and as bound of a step."""
    shapes = pages if isinstance(pages, list) else [PoolShape(0, 0, pages)]

    def evenly(rows: int, more_to_come: bool) -> RingPlan:
        count = min(rows, microbatches)
        return RingPlan(count, -(-rows // count), float(tokens), (0,))

    return Scheduler(
        KvBudget([shapes]),
        (plan_for or evenly)(max_rows, True),
        [TOKEN_COST],
        plan_for=plan_for or evenly,
        max_rows=max_rows,
        max_tokens=tokens,
        chunks_in_flight=chunks_in_flight,
        whole_prompts=whole_prompts,
    )


class PretendStages:
    """Every stage's pools and what it has computed; takes steps in order, like a ring of any length."""

    def __init__(self, shapes: list[PoolShape]) -> None:
        self.pools = [PagePool(shape) for shape in shapes]
        self.tokens: dict[int, list[int]] = {}

    def run(self, released: tuple[int, ...], chunks: tuple[Chunk, ...], ids: list[int]) -> list[SampledToken]:
        for sequence in released:
            self.tokens.pop(sequence, None)
            for pool in self.pools:
                pool.release(sequence)
        for pool in self.pools:
            for chunk in chunks:
                pool.shrink(chunk.sequence, chunk.start)
            for chunk in chunks:
                pool.grow(chunk.sequence, chunk.start + chunk.count)
        drawn, offset = [], 0
        for chunk in chunks:
            known = self.tokens.setdefault(chunk.sequence, [])
            assert chunk.start == len(known), "a chunk must follow the one before it"
            known += ids[offset : offset + chunk.count]
            offset += chunk.count
            if chunk.wanted:
                drawn.append(SampledToken(chunk.sequence, len(known), next_token(known)))
        return drawn


def run_to_the_end(
    scheduler: Scheduler, stages: PretendStages, rows: dict[int, tuple[Row, int]], depth: int, budget: int
) -> set[int]:
    """Steps return `depth` steps later. Gives back the keys of rows that outgrew the ring."""
    under_way: deque[tuple[int, int, list[SampledToken]]] = deque()
    failed: set[int] = set()
    for _ in range(20_000):
        plan = scheduler.next_step() if len(under_way) <= depth else None
        failed |= {row.key for row in scheduler.take_failed()}
        if plan is not None:
            assert sum(c.count for c in plan.chunks) == len(plan.token_ids) <= budget
            assert plan.microbatch not in {microbatch for _, microbatch, _ in under_way}
            under_way.append((plan.step, plan.microbatch, stages.run(plan.released, plan.chunks, plan.token_ids)))
        elif under_way:
            step, microbatch, drawn = under_way.popleft()
            for row, _ in scheduler.complete(step, microbatch, drawn):
                if len(row.generated) == rows[row.key][1]:
                    scheduler.finish(row)
        else:
            return failed
    raise AssertionError("the rows never ended")


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=24),
    pages=st.integers(3, 40),
    window=st.sampled_from([0, 5, 16, 40]),
    microbatches=st.integers(1, 5),
    depth=st.integers(0, 4),
    budget=st.integers(16, 64),
    page_tokens=st.sampled_from([1, 8, DEFAULT_PAGE_TOKENS, 24]),
)
def test_every_row_ends_with_its_own_tokens_whatever_the_memory(
    lengths: list[tuple[int, int]],
    pages: int,
    window: int,
    microbatches: int,
    depth: int,
    budget: int,
    page_tokens: int,
) -> None:
    windows = [0, window] if window else [0]
    shapes = [PoolShape(reach, 0, pages, page_tokens=page_tokens) for reach in windows]
    scheduler = scheduler_with(shapes, microbatches=microbatches, max_rows=16, tokens=budget)
    stages = PretendStages(shapes)
    rows = {}
    for key, (prompt, new) in enumerate(lengths):
        row = Row(key, tuple((key * 7 + i) % 50 for i in range(prompt)))
        if scheduler.can_ever_run(row):
            rows[key] = (row, new)
            scheduler.add(row)
    failed = run_to_the_end(scheduler, stages, rows, depth, budget)
    for key, (row, new) in rows.items():
        if key in failed:
            assert row.length // page_tokens + 1 >= pages, "only a row that fills the ring alone may fail"
            continue
        expected = list(row.prompt)
        for _ in range(new):
            expected.append(next_token(expected))
        assert row.generated == expected[len(row.prompt) :]
    assert scheduler.running == scheduler.waiting == 0
    assert scheduler.budget.used == 0


def test_decodes_go_before_prompts_and_prompts_are_chunked() -> None:
    scheduler = scheduler_with(100, tokens=32)
    scheduler.add(Row(0, tuple(range(10))))
    first = scheduler.next_step()
    assert first is not None
    scheduler.complete(first.step, 0, [SampledToken(first.chunks[0].sequence, 10, 5)])
    scheduler.add(Row(1, tuple(range(80))))
    second = scheduler.next_step()
    assert second is not None
    assert [(c.start, c.count, c.wanted) for c in second.chunks] == [(10, 1, 1), (0, 31, 0)]


def test_rows_that_will_grow_wait_rather_than_throw_each_other_out() -> None:
    scheduler = scheduler_with(4)
    rows = {key: (Row(key, tuple(range(10 + key)), most_new=30), 30) for key in range(2)}
    for row, _ in rows.values():
        scheduler.add(row)
    assert run_to_the_end(scheduler, PretendStages([PoolShape(0, 0, 4)]), rows, 0, 64) == set()
    assert scheduler.preemptions == 0


def test_the_youngest_row_gives_way_and_is_computed_again() -> None:
    scheduler = scheduler_with(12, max_rows=16)
    stages = PretendStages([PoolShape(0, 0, 12)])
    # After many short rows nobody expects long ones.
    rows = {key: (Row(key, tuple(range(10)), most_new=60), 2 if key < 64 else 60) for key in range(70)}
    for row, _ in rows.values():
        scheduler.add(row)
    assert run_to_the_end(scheduler, stages, rows, 0, 64) == set()
    assert 0 < scheduler.preemptions < 20
    for row, new in rows.values():
        expected = list(row.prompt)
        for _ in range(new):
            expected.append(next_token(expected))
        assert row.generated == expected[len(row.prompt) :]


def test_a_cancelled_row_frees_its_pages_with_the_next_step() -> None:
    scheduler = scheduler_with(10)
    doomed, other = Row(0, tuple(range(20))), Row(1, tuple(range(4)))
    scheduler.add(doomed)
    scheduler.add(other)
    plan = scheduler.next_step()
    assert plan is not None
    gone = doomed.sequence
    scheduler.finish(doomed)
    complete(scheduler, plan)
    following = scheduler.next_step()
    assert following is not None
    assert following.released == (gone,)
    assert [c.sequence for c in following.chunks] == [other.sequence]


def test_a_step_that_is_not_under_way_is_refused() -> None:
    scheduler = scheduler_with(10)
    with pytest.raises(ValueError, match="not under way"):
        scheduler.complete(3, 0, [])


def test_a_token_for_a_row_that_has_none_due_is_refused() -> None:
    scheduler = scheduler_with(100, tokens=16)
    scheduler.add(Row(0, tuple(range(64))))
    first = scheduler.next_step()
    assert first is not None
    assert not any(chunk.wanted for chunk in first.chunks)
    with pytest.raises(ValueError, match="none due"):
        scheduler.complete(first.step, first.microbatch, [SampledToken(first.chunks[0].sequence, 16, 7)])


def test_a_second_token_of_one_step_is_refused() -> None:
    scheduler = scheduler_with(100)
    scheduler.add(Row(0, (1, 2, 3)))
    step = scheduler.next_step()
    assert step is not None
    token = SampledToken(step.chunks[0].sequence, 3, 7)
    with pytest.raises(ValueError, match="none due"):
        scheduler.complete(step.step, step.microbatch, [token, token])


def complete(scheduler: Scheduler, plan: StepPlan, token: int = 7) -> None:
    """The plan's step comes back with a token for each row that wanted one."""
    drawn = [SampledToken(c.sequence, c.start + c.count, token) for c in plan.chunks if c.wanted]
    scheduler.complete(plan.step, plan.microbatch, drawn)


def steps_of(scheduler: Scheduler) -> list[StepPlan]:
    """All steps that can be under way at once."""
    return list(iter(scheduler.next_step, None))


def test_no_microbatch_swallows_all_rows() -> None:
    scheduler = scheduler_with(999, microbatches=3, max_rows=9, tokens=512)
    for key in range(9):
        scheduler.add(Row(key, (1, 2, 3)))
    for plan in steps_of(scheduler):
        complete(scheduler, plan)
    assert [len(plan.chunks) for plan in steps_of(scheduler)] == [3, 3, 3]


def test_microbatches_shrink_in_number_before_they_shrink_in_size() -> None:
    scheduler = scheduler_with(999, max_rows=16, plan_for=lambda rows, _: RingPlan(-(-rows // 4), 4, 512.0, (0,)))
    rows = [Row(key, (1, 2, 3)) for key in range(16)]
    for row in rows:
        scheduler.add(row)
    for plan in steps_of(scheduler):
        complete(scheduler, plan)
    for left in (12, 8, 4):
        for row in rows[left : left + 4]:
            scheduler.finish(row)
        for _ in range(2):
            plans = steps_of(scheduler)
            for plan in plans:
                complete(scheduler, plan)
        assert [len(plan.chunks) for plan in plans] == [4] * (left // 4)


def test_chunks_of_a_long_prompt_follow_each_other_before_the_first_is_back() -> None:
    scheduler = scheduler_with(999, microbatches=4, tokens=32)
    scheduler.add(Row(0, tuple(range(100))))
    plans = steps_of(scheduler)
    assert [(c.start, c.count, c.wanted) for plan in plans for c in plan.chunks] == [
        (0, 32, 0),
        (32, 32, 0),
        (64, 32, 0),
        (96, 4, 1),
    ]
    assert [len(plan.admitted) for plan in plans] == [1, 0, 0, 0]


def test_a_chunk_waits_for_the_one_before_where_only_one_may_be_under_way() -> None:
    scheduler = scheduler_with(999, microbatches=4, tokens=32, chunks_in_flight=1)
    scheduler.add(Row(0, tuple(range(100))))
    for start in (0, 32, 64, 96):
        (plan,) = steps_of(scheduler)
        assert plan.chunks[0].start == start
        complete(scheduler, plan)


def test_prompts_are_not_cut_where_that_is_switched_off() -> None:
    plan = RingPlan(2, 4, 16.0, (0,))
    scheduler = scheduler_with(999, tokens=512, plan_for=lambda *_: plan, whole_prompts=True)
    scheduler.add(Row(0, tuple(range(200))))
    assert [plan.chunks[0].count for plan in steps_of(scheduler)] == [200]


def test_tokens_of_one_codec_are_next_to_each_other() -> None:
    scheduler = scheduler_with(999, tokens=512)
    for key, codec in enumerate(("raw", "bf16", "raw", "bf16")):
        scheduler.add(Row(key, (key,) * (key + 1), codec=codec))
    (plan,) = steps_of(scheduler)
    assert [(segment.codec, segment.tokens) for segment in plan.segments] == [("bf16", 6), ("raw", 4)]
    assert plan.token_ids == [1, 1, 3, 3, 3, 3, 0, 2, 2, 2]
    complete(scheduler, plan)
    (plan,) = steps_of(scheduler)
    assert [(segment.codec, segment.tokens) for segment in plan.segments] == [("bf16", 2), ("raw", 2)]


def test_a_plan_that_leaves_less_memory_lets_rows_wait_and_loses_none() -> None:
    pools = [PoolShape(0, 0, 8, host_pages=32)]
    swapping, resident = RingPlan(4, 3, 512.0, (3,)), RingPlan(3, 4, 512.0, (0,))
    scheduler = scheduler_with(pools, max_rows=12, tokens=512, plan_for=lambda *_: swapping)
    stages = PretendStages(pools)
    rows = {key: (Row(key, tuple(range(10)), most_new=4), 4) for key in range(12)}
    for row, _ in rows.values():
        scheduler.add(row)
    plans = steps_of(scheduler)
    assert scheduler.budget.used > 8
    for plan in plans:
        scheduler.complete(plan.step, plan.microbatch, stages.run(plan.released, plan.chunks, plan.token_ids))
    scheduler.apply_plan(resident, [TOKEN_COST])
    assert scheduler.budget.used <= 8
    assert scheduler.running + scheduler.waiting == 12
    (tuned,) = [plan.tune for plan in steps_of(scheduler) if plan.tune is not None]
    assert tuned is resident


def test_a_row_that_needs_more_than_a_microbatch_s_share_of_the_device_is_served_nevertheless() -> None:
    pools = [PoolShape(0, 0, 16, host_pages=64)]
    swapping = RingPlan(4, 2, 512.0, (5,))
    scheduler = scheduler_with(pools, max_rows=8, tokens=512, plan_for=lambda *_: swapping)
    page = pools[0].page_tokens
    rows = {0: (Row(0, tuple(range(11 * page)), most_new=8), 8)}
    rows |= {key: (Row(key, tuple(range(page)), most_new=8), 8) for key in range(1, 6)}
    assert all(scheduler.can_ever_run(row) for row, _ in rows.values())
    for row, _ in rows.values():
        scheduler.add(row)
    assert not run_to_the_end(scheduler, PretendStages(pools), rows, depth=3, budget=512)
    assert all(len(row.generated) == count for row, count in rows.values())
