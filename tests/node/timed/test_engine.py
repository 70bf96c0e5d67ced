"""A timed stage takes its profile's time, keeps the real account of pages, and answers with the right sizes."""

from __future__ import annotations

import itertools

import pytest
import torch

from deserve_network.ring_messages import Admit, Chunk, SampledToken, Sampling
from deserve_node.engine.pages import OutOfPagesError
from deserve_node.timed.engine import TimedEngine, drawn_token
from deserve_node.timed.profile import StageProfile

PROFILE = StageProfile(fixed_ms=20.0, token_ms=1.0, wanted_ms=10.0, context_token_us=100.0, hidden=8, device_pages=4)


def engine(*, is_tail, vocab_size=50):
    return TimedEngine(PROFILE, vocab_size=vocab_size, context_length=512, is_tail=is_tail)


def admitted(sequence, prompt, **sampling):
    return Admit("r", 1, sequence, Sampling(**sampling), tuple(prompt))


def test_a_step_takes_what_its_load_costs():
    middle = engine(is_tail=False)
    output = middle.run([Chunk(1, 0, 5, 0), Chunk(2, 0, 1, 1)], torch.zeros(6, 8))
    assert output.takes_s == pytest.approx(0.020 + 6 * 0.001 + 1 * 0.0001)
    assert (output.hidden.shape, output.hidden.dtype) == ((6, 8), torch.bfloat16)


def test_only_the_tail_pays_for_logits():
    tail = engine(is_tail=True)
    tail.admit(admitted(1, [7]))
    output = tail.run([Chunk(1, 0, 1, 1)], torch.zeros(1, 8))
    assert output.takes_s == pytest.approx(0.020 + 0.001 + 0.010 + 0.0001)


def test_pages_run_out_and_come_back():
    middle = engine(is_tail=False)
    middle.run([Chunk(1, 0, 64, 0)], torch.zeros(64, 8))
    assert middle.cache.pages_used == 4
    with pytest.raises(OutOfPagesError, match="sequence 2"):
        middle.run([Chunk(2, 0, 1, 0)], torch.zeros(1, 8))
    middle.release([1])
    assert middle.run([Chunk(2, 0, 1, 0)], torch.zeros(1, 8)).hidden.shape == (1, 8)


def test_the_tail_draws_the_next_token_of_each_row_that_wants_one():
    tail = engine(is_tail=True)
    tail.admit(admitted(1, [7, 8, 9], seed=5))
    tail.admit(admitted(2, [7, 8], seed=6))
    first = tail.run([Chunk(1, 0, 3, 1), Chunk(2, 0, 1, 0)], torch.zeros(4, 8))
    assert first.drawn == (SampledToken(1, 3, drawn_token(5, 3, 50)),)
    second = tail.run([Chunk(1, 3, 1, 1), Chunk(2, 1, 1, 1)], torch.zeros(2, 8))
    assert second.drawn == (SampledToken(1, 4, drawn_token(5, 4, 50)), SampledToken(2, 2, drawn_token(6, 2, 50)))
    assert second.hidden is None


def test_a_replayed_row_draws_nothing_twice():
    tail = engine(is_tail=True)
    tail.admit(Admit("r", 1, 1, Sampling(seed=5), (7, 8), generated=(3, 4)))
    assert tail.run([Chunk(1, 0, 3, 0)], torch.zeros(3, 8)).drawn == ()
    assert tail.run([Chunk(1, 3, 1, 1)], torch.zeros(1, 8)).drawn == (SampledToken(1, 4, drawn_token(5, 4, 50)),)


def test_no_sequence_ends_by_itself():
    tail = engine(is_tail=True, vocab_size=4)
    ends = (0, 1, 3)
    tail.admit(admitted(1, [2], stop_token_ids=ends))
    for position in range(20):
        (token,) = tail.run([Chunk(1, position, 1, 1)], torch.zeros(1, 8)).drawn
        assert token.token == 2


def test_a_prompt_is_scored_where_that_is_asked_for():
    tail = engine(is_tail=True)
    tail.admit(admitted(1, [7, 8, 9], prompt_logprobs=0, logprobs=0))
    output = tail.run([Chunk(1, 0, 3, 3)], torch.zeros(3, 8))
    assert [(token.position, token.token) for token in output.scored] == [(1, 8), (2, 9)]
    assert [token.position for token in output.drawn] == [3]


def test_tokens_differ_by_seed_and_by_position():
    drawn = {drawn_token(seed, position, 1 << 40) for seed, position in itertools.product(range(20), range(20))}
    assert len(drawn) == 400
