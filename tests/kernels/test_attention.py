"""The C++ kernel against the torch reference, and its promise of one reduction order per query."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_kernels import paged_attention, reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library


@pytest.fixture(autouse=True, scope="module")
def compiled():
    assert native_library() is not None, "these tests are about the compiled kernel"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=1e-5)


LENGTHS = st.integers(1, 200).flatmap(lambda context: st.tuples(st.just(context), st.integers(0, context)))


@given(
    sequences=st.lists(LENGTHS, min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (5, 1), (9, 3), (40, 1)]),
    dims=st.sampled_from([(64, 64), (16, 16), (20, 12), (80, 80), (96, 64), (7, 33), (192, 128), (1, 1)]),
    page_tokens=st.sampled_from([1, 4, 16, 24, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    limits=st.sampled_from([(0, 0), (1, 0), (10, 0), (64, 0), (100, 0), (0, 16), (0, 50), (30, 70)]),
    softcap=st.sampled_from([0.0, 1.5, 50.0]),
    sinks=st.booleans(),
    padding=st.sampled_from([0, 3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_reference(
    batch_of, sequences, heads, dims, page_tokens, dtype, limits, softcap, sinks, padding, seed
):
    batch = batch_of(
        sequences,
        heads=heads[0],
        kv_heads=heads[1],
        key_dim=dims[0],
        value_dim=dims[1],
        page_tokens=page_tokens,
        dtype=dtype,
        padding=padding,
        seed=seed,
        window=limits[0],
        chunk=limits[1],
        softcap=softcap,
        sinks=torch.linspace(-2, 4, heads[0]) if sinks else None,
    )
    out = batch.attend(paged_attention)
    assert_close(out, batch.attend(reference.paged_attention))
    assert not out[int(batch.query_start[-1]) :].any()


def test_equals_attention_written_out_key_by_key(batch_of):
    batch = batch_of([(9, 3)], heads=2, kv_heads=1, key_dim=4, page_tokens=4, window=5)
    out = batch.attend(paged_attention).double()
    for j in range(3):
        position = 6 + j
        for head in range(2):
            weights, total = torch.zeros(4, dtype=torch.double), 0.0
            for key in range(position - 4, position + 1):
                page = batch.page_table[0, key // 4]
                score = batch.queries[j, head].double() @ batch.key_pages[page, 0, key % 4].double() * 0.5
                weights += score.exp() * batch.value_pages[page, 0, key % 4].double()
                total += float(score.exp())
            torch.testing.assert_close(out[j, head], weights / total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_queries_of_lower_precision_are_accumulated_in_fp32(batch_of, dtype):
    batch = batch_of([(150, 20)], dtype=dtype)
    exact = batch.attend(reference.paged_attention)
    batch.queries = batch.queries.to(dtype)
    out = batch.attend(paged_attention)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)


def test_subnormal_and_extreme_half_precision_pages_are_read_exactly(batch_of):
    batch = batch_of([(1, 1)], heads=1, kv_heads=1, key_dim=16, dtype=torch.float16)
    values = [0.0, -0.0, 2.0**-24, -(2.0**-24), 2.0**-14, 65504.0, -65504.0, 1.0]
    values += [0.333, 1e-5, 3e-6, -7e-5, 12.0, -1.0, 9.0, 5.0]
    batch.value_pages[batch.page_table[0, 0], 0, 0] = torch.tensor(values, dtype=torch.float16)
    assert torch.equal(batch.attend(paged_attention)[0, 0], torch.tensor(values, dtype=torch.float16).float())


def test_strided_queries_are_read_in_place(batch_of):
    batch = batch_of([(40, 12), (7, 7)])
    expected = batch.attend(paged_attention)
    batch.queries = batch.queries.transpose(0, 1).contiguous().transpose(0, 1)
    assert not batch.queries.is_contiguous()
    assert torch.equal(batch.attend(paged_attention), expected)


def test_scores_far_apart_do_not_overflow(batch_of):
    batch = batch_of([(300, 5)], scale=80.0)
    out = batch.attend(paged_attention)
    assert out.isfinite().all()
    torch.testing.assert_close(out, batch.attend(reference.paged_attention), rtol=1e-3, atol=1e-3)


def test_no_queries_give_nothing(batch_of):
    assert batch_of([(5, 0)], padding=2).attend(paged_attention).eq(0).all()
    assert batch_of([(5, 0)]).attend(paged_attention).shape == (0, 4, 16)


# One reduction order per query


CASES = {
    "plain": {},
    "window": {"window": 37},
    "chunk": {"chunk": 48},
    "softcap": {"softcap": 20.0},
    "window and chunk": {"window": 90, "chunk": 128},
    "bf16": {"dtype": torch.bfloat16},
    "mla": {"heads": 3, "kv_heads": 3, "key_dim": 24, "value_dim": 20},
    "dim 80": {"heads": 6, "kv_heads": 2, "key_dim": 80},
    "multi-query": {"heads": 7, "kv_heads": 1, "key_dim": 64},
}


def in_steps(batch, boundaries):
    """The queries of sequence 0, whose context is all queries, a stretch at a time."""
    parts = []
    for begin, end in pairwise(boundaries):
        arguments = batch.arguments | {
            "query_start": torch.tensor([0, end - begin], dtype=torch.int32),
            "context": torch.tensor([end], dtype=torch.int32),
        }
        parts.append(paged_attention(batch.queries[begin:end], batch.key_pages, batch.value_pages, **arguments))
    return torch.cat(parts)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decode_chunks_and_prefill_give_the_same_bits(batch_of, case):
    batch = batch_of([(277, 277)], **case)
    prefill = batch.attend(paged_attention)
    assert torch.equal(in_steps(batch, list(range(278))), prefill)


@given(cuts=st.lists(st.integers(1, 276), unique=True, max_size=8), case=st.sampled_from(list(CASES.values())))
@settings(max_examples=40, deadline=None)
def test_any_chunking_gives_the_same_bits(batch_of, cuts, case):
    batch = batch_of([(277, 277)], **case)
    assert torch.equal(in_steps(batch, [0, *sorted(cuts), 277]), batch.attend(paged_attention))


@given(sequences=st.lists(LENGTHS.filter(lambda s: s[1] > 0), min_size=2, max_size=5), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_batch_around_a_sequence_does_not_change_its_bits(batch_of, sequences, data):
    batch = batch_of(sequences, window=70, softcap=30.0)
    together = batch.attend(paged_attention)
    s = data.draw(st.integers(0, len(sequences) - 1))
    begin, end = batch.query_start[s : s + 2].tolist()
    arguments = batch.arguments | {
        "page_table": batch.page_table[s : s + 1],
        "query_start": torch.tensor([0, end - begin], dtype=torch.int32),
        "context": batch.context[s : s + 1],
    }
    alone = paged_attention(batch.queries[begin:end], batch.key_pages, batch.value_pages, **arguments)
    assert torch.equal(alone, together[begin:end])


def test_the_number_of_threads_does_not_change_the_bits(batch_of, threads):
    batch = batch_of([(200, 200), (90, 1), (33, 7), (150, 1)], key_dim=64)
    outputs = []
    for count in (1, 2, 3):
        threads(count)
        outputs.append(batch.attend(paged_attention))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_page_size_does_not_change_the_bits(batch_of):
    small = batch_of([(130, 130)], page_tokens=2, window=50)
    table = small.page_table[0, :65].long()
    dense = small.key_pages[table].transpose(0, 1).flatten(1, 2), small.value_pages[table].transpose(0, 1).flatten(1, 2)
    whole = small.arguments | {"page_table": torch.zeros(1, 1, dtype=torch.int32)}
    out = paged_attention(small.queries, dense[0][None].contiguous(), dense[1][None].contiguous(), **whole)
    assert torch.equal(out, small.attend(paged_attention))


def test_an_infinite_value_of_a_later_token_does_not_reach_an_earlier_query(batch_of):
    batch = batch_of([(20, 20)])
    before = batch.attend(paged_attention)
    batch.value_pages[batch.page_table[0, 1], :, 3] = torch.inf
    out = batch.attend(paged_attention)
    assert torch.equal(out[:19], before[:19])
    assert not out[19].isfinite().any()


# What is not read, and what is refused


def test_pages_below_the_window_may_be_freed(batch_of):
    batch = batch_of([(100, 4), (40, 1)], window=20)
    expected = batch.attend(paged_attention)
    batch.page_table[0, : (96 - 19) // 16] = -1
    assert torch.equal(batch.attend(paged_attention), expected)
    assert_close(batch.attend(reference.paged_attention), expected)


@pytest.mark.parametrize("page", [-1, 1000])
def test_a_needed_page_that_does_not_exist_is_refused(batch_of, page):
    batch = batch_of([(100, 4)])
    batch.page_table[0, 2] = page
    with pytest.raises(ArgumentError, match="page_table"):
        batch.attend(paged_attention)


def test_a_context_longer_than_the_page_table_is_refused(batch_of):
    batch = batch_of([(100, 4)])
    batch.context[0] = 4000
    with pytest.raises(ArgumentError, match="page_table"):
        batch.attend(paged_attention)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": torch.tensor([3], dtype=torch.int32)}, "sequence 0: queries"),
        ({"context": torch.tensor([100])}, "context: torch.int64"),
        ({"query_start": torch.tensor([0, 99], dtype=torch.int32)}, "query_start: from 0 to 99"),
        ({"query_start": torch.tensor([0], dtype=torch.int32)}, "query_start"),
        ({"sinks": torch.zeros(3)}, "sinks"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(batch_of, changes, message):
    batch = batch_of([(100, 4)])
    with pytest.raises(ArgumentError, match=message):
        batch.attend(paged_attention, **changes)


def test_pages_that_do_not_fit_are_refused(batch_of):
    batch = batch_of([(100, 4)])
    with pytest.raises(ArgumentError, match="do not fit"):
        paged_attention(batch.queries[..., :8], batch.key_pages, batch.value_pages, **batch.arguments)
    pages = batch.key_pages.transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ArgumentError, match="contiguous"):
        paged_attention(batch.queries, pages, batch.value_pages, **batch.arguments)
    with pytest.raises(ArgumentError, match="float64"):
        paged_attention(batch.queries, batch.key_pages.double(), batch.value_pages.double(), **batch.arguments)
