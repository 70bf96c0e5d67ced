"""The scheduler against real page pools and a stand-in for compute: a token is a hash of all tokens before it."""

from __future__ import annotations

import zlib
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.ring_messages import Chunk
from deserve_node.engine.pages import DEFAULT_PAGE_TOKENS, PagePool, PoolShape
from deserve_node.ring.kv_budget import KvBudget
from deserve_node.ring.scheduler import Row, Scheduler


def next_token(tokens: list[int]) -> int:
    return zlib.crc32(bytes(str(tokens), "ascii")) % 1000


class PretendStages:
    """Every stage's pools and what it has computed; takes steps in order, like a ring of any length."""

    def __init__(self, shapes: list[PoolShape]) -> None:
        self.pools = [PagePool(shape) for shape in shapes]
        self.tokens: dict[int, list[int]] = {}

    def run(self, released: tuple[int, ...], chunks: tuple[Chunk, ...], ids: list[int]) -> list[tuple[int, int]]:
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
                drawn.append((chunk.sequence, next_token(known)))
        return drawn


def run_to_the_end(
    scheduler: Scheduler, stages: PretendStages, rows: dict[int, tuple[Row, int]], depth: int, budget: int
) -> set[int]:
    """Steps return `depth` steps later. Gives back the keys of rows that outgrew the ring."""
    under_way: deque[tuple[int, int, list[tuple[int, int]]]] = deque()
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
    scheduler = Scheduler(
        KvBudget(shapes), microbatches=lambda rows: min(rows, microbatches), max_rows=16, token_budget=budget
    )
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
    scheduler = Scheduler(KvBudget([PoolShape(0, 0, 100)]), microbatches=lambda _: 1, max_rows=8, token_budget=32)
    scheduler.add(Row(0, tuple(range(10))))
    first = scheduler.next_step()
    assert first is not None
    scheduler.complete(first.step, 0, [(first.chunks[0].sequence, 5)])
    scheduler.add(Row(1, tuple(range(80))))
    second = scheduler.next_step()
    assert second is not None
    assert [(c.start, c.count, c.wanted) for c in second.chunks] == [(10, 1, 1), (0, 31, 0)]


def test_the_youngest_row_gives_way_and_is_computed_again() -> None:
    scheduler = Scheduler(KvBudget([PoolShape(0, 0, 4)]), microbatches=lambda _: 1, max_rows=8, token_budget=64)
    stages = PretendStages([PoolShape(0, 0, 4)])
    rows = {key: (Row(key, tuple(range(10 + key))), 30) for key in range(2)}
    for row, _ in rows.values():
        scheduler.add(row)
    assert run_to_the_end(scheduler, stages, rows, 0, 64) == set()
    assert scheduler.preemptions > 0


def test_a_cancelled_row_frees_its_pages_with_the_next_step() -> None:
    scheduler = Scheduler(KvBudget([PoolShape(0, 0, 10)]), microbatches=lambda _: 1, max_rows=8, token_budget=64)
    doomed, other = Row(0, tuple(range(20))), Row(1, tuple(range(4)))
    scheduler.add(doomed)
    scheduler.add(other)
    plan = scheduler.next_step()
    assert plan is not None
    gone = doomed.sequence
    scheduler.finish(doomed)
    scheduler.complete(plan.step, plan.microbatch, [(c.sequence, 1) for c in plan.chunks])
    following = scheduler.next_step()
    assert following is not None
    assert following.released == (gone,)
    assert [c.sequence for c in following.chunks] == [other.sequence]


def test_a_step_that_is_not_under_way_is_refused() -> None:
    scheduler = Scheduler(KvBudget([PoolShape(0, 0, 10)]), microbatches=lambda _: 1, max_rows=8, token_budget=64)
    with pytest.raises(ValueError, match="not under way"):
        scheduler.complete(3, 0, [])


def test_no_microbatch_swallows_all_rows() -> None:
    scheduler = Scheduler(KvBudget([PoolShape(0, 0, 999)]), microbatches=lambda _: 3, max_rows=64, token_budget=512)
    for key in range(9):
        scheduler.add(Row(key, (1, 2, 3)))
    sizes = []
    for _ in range(3):
        plan = scheduler.next_step()
        assert plan is not None
        sizes.append(len(plan.chunks))
    assert sizes == [3, 3, 3]
