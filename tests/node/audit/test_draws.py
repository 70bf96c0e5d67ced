"""A draw is right where the row's seed and the logits call for it, and near enough where they nearly do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.audit_messages import TailEvidence
from deserve_network.ring_messages import Sampling, TokenBias
from deserve_node.audit.draws import judge_draws, shortfall
from deserve_node.sampler import Sampler, SamplingRow

VOCABULARY = 200
PROMPT = (1, 2, 3)

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([-1, 1, 5, 50]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 1000),
)


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 3


def drawn(values: np.ndarray, sampling: Sampling, position: int = 3) -> int:
    row = SamplingRow(0, position, sampling, PROMPT, ())
    return Sampler(VOCABULARY, torch.device("cpu")).draw(torch.from_numpy(values)[None], [row])[0].token


@settings(deadline=None)
@given(sampling=SAMPLINGS, seed=st.integers(0, 1000))
def test_the_samplers_own_draw_falls_short_by_nothing(sampling, seed):
    values = logits(seed)
    token = drawn(values, sampling)
    assert shortfall(values, sampling, 3, token, PROMPT, (), tolerance=0.01) == 0


@settings(deadline=None)
@given(sampling=SAMPLINGS, seed=st.integers(0, 1000))
def test_a_draw_from_logits_that_moved_a_little_falls_short_by_no_more(sampling, seed):
    values = logits(seed)
    moved = values + np.random.default_rng(seed + 1).uniform(-0.005, 0.005, VOCABULARY).astype(np.float32)
    token = drawn(moved, sampling)
    # A penalty divides or multiplies what moved; the edge of truncation and the score each move by twice that.
    assert shortfall(values, sampling, 3, token, PROMPT, (), tolerance=0.03) <= 0.03


@given(seed=st.integers(0, 200))
def test_another_seed_draws_what_falls_short(seed):
    values = logits(seed) / 3
    sampling = Sampling(temperature=1.0, seed=seed)
    token = drawn(values, dataclasses.replace(sampling, seed=seed + 5000))
    if token != drawn(values, sampling):
        assert shortfall(values, sampling, 3, token, PROMPT, (), tolerance=0.001) > 0


def test_what_truncation_leaves_out_falls_short_by_its_distance_to_the_edge():
    values = np.array([5.0, 4.0, 3.0, -1.0], np.float32)
    sampling = Sampling(temperature=1.0, top_k=2)
    assert shortfall(values, sampling, 3, 3, PROMPT, (), tolerance=0.001) >= 5.0


def test_a_token_that_cannot_be_drawn_falls_short_for_good():
    sampling = Sampling(temperature=1.0, logit_bias=(TokenBias(7, float("-inf")),))
    assert shortfall(logits(1), sampling, 3, 7, PROMPT, (), tolerance=0.1) == float("inf")
    broken = logits(1)
    broken[3] = np.nan
    assert shortfall(broken, Sampling(), 3, 5, PROMPT, (), tolerance=0.1) == float("inf")


def test_the_first_draw_beyond_tolerance_is_named():
    values = np.stack([logits(1), logits(2), logits(3)])
    right = [int(row.argmax()) for row in values]
    tail = TailEvidence(Sampling(), PROMPT, (9,), (right[0], (right[1] + 1) % VOCABULARY, right[2]))
    judgement = judge_draws(tail, iter([torch.from_numpy(values[:2]), torch.from_numpy(values[2:])]), 0.01)
    assert not judgement.passed
    assert judgement.position == len(PROMPT) + 1 + 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_penalties_see_what_was_drawn_before(temperature):
    values = np.zeros((2, VOCABULARY), np.float32)
    values[:, 5], values[:, 6] = 30.0, 29.0
    sampling = Sampling(temperature=temperature, presence_penalty=9.0, seed=1)
    right = TailEvidence(sampling, PROMPT, (), (5, 6))
    assert judge_draws(right, iter([torch.from_numpy(values)]), 0.01).passed
    wrong = TailEvidence(sampling, PROMPT, (), (5, 5))
    assert judge_draws(wrong, iter([torch.from_numpy(values)]), 0.01).position == len(PROMPT) + 1
