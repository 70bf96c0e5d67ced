from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_node.engine.pages import OutOfPagesError, PagePool, PoolShape, first_visible, live_pages


@given(st.integers(0, 500), st.integers(0, 60), st.integers(0, 60))
def test_the_first_visible_position_is_the_oldest_in_window_and_chunk(position: int, window: int, chunk: int) -> None:
    visible = [
        p
        for p in range(position + 1)
        if (not window or p > position - window) and (not chunk or p // chunk == position // chunk)
    ]
    assert first_visible(position, window, chunk) == visible[0]


PAGE_TOKENS = 8


def test_a_window_gives_back_pages_that_slid_out_and_keeps_their_numbers() -> None:
    pool = PagePool(PoolShape(window=PAGE_TOKENS, chunk=0, pages=4, page_tokens=PAGE_TOKENS))
    pool.grow(7, 3 * PAGE_TOKENS)
    pool.shrink(7, 3 * PAGE_TOKENS)
    pool.grow(7, 3 * PAGE_TOKENS + 1)
    assert (pool.tables([7])[0] >= 0).tolist() == [False, False, True, True]
    assert pool.used == len(live_pages(3 * PAGE_TOKENS, 1, PAGE_TOKENS, 0, PAGE_TOKENS))
    pool.release(7)
    assert pool.used == 0


def test_more_than_the_pool_has_is_refused_and_takes_nothing() -> None:
    pool = PagePool(PoolShape(0, 0, 2, page_tokens=PAGE_TOKENS))
    with pytest.raises(OutOfPagesError, match="needs 3 pages, 2 are free"):
        pool.grow(1, 2 * PAGE_TOKENS + 1)
    assert pool.used == 0
