"""Draws and scores, each option against a small implementation of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.ring_messages import Sampling, TokenBias
from deserve_node.sampler import Sampler, SamplingError, SamplingRow, ScoringRow

VOCAB = 37


def row(sampling: Sampling, *, sequence: int = 0, position: int = 9, prompt=(1, 2, 3), generated=()) -> SamplingRow:
    return SamplingRow(sequence, position, sampling, prompt, generated)


def draw(logits, *rows: SamplingRow):
    logits = torch.as_tensor(np.asarray(logits, dtype=np.float32))
    return Sampler(logits.shape[-1], torch.device("cpu")).draw(logits.reshape(len(rows), -1), rows)


def counts(logits, sampling: Sampling, draws: int = 4000, **row_options) -> np.ndarray:
    """How often each token is drawn over as many positions."""
    logits = torch.as_tensor(np.asarray(logits, dtype=np.float32))
    rows = [row(sampling, position=position, **row_options) for position in range(draws)]
    drawn = Sampler(len(logits), torch.device("cpu")).draw(logits.expand(draws, -1).contiguous(), rows)
    return np.bincount([token.token for token in drawn], minlength=len(logits))


def softmax(logits) -> np.ndarray:
    weights = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    return weights / weights.sum()


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic; where nothing is expected, nothing may be observed."""
    possible = expected > 0
    assert observed[~possible].sum() == 0
    return float(((observed - expected)[possible] ** 2 / expected[possible]).sum())


def assert_drawn_from(observed: np.ndarray, probabilities: np.ndarray) -> None:
    degrees = int((probabilities > 0).sum()) - 1
    # Mean plus five standard deviations of the statistic; the seeds are fixed, so this never varies.
    limit = degrees + 5 * math.sqrt(2 * max(degrees, 1))
    assert chi_square(observed, probabilities * observed.sum()) < limit


LOGITS = np.random.default_rng(7).normal(0, 1.5, VOCAB).astype(np.float32)


def test_temperature_zero_takes_the_likeliest_token():
    (token,) = draw(LOGITS, row(Sampling(), sequence=5, position=11))
    assert (token.sequence, token.position, token.token) == (5, 11, int(LOGITS.argmax()))
    assert token.logprob is None
    assert token.top == ()


def test_greedy_ties_go_to_the_lowest_id():
    logits = np.zeros((3, 40), dtype=np.float32)
    logits[:, [7, 21, 39]] = 2.0
    assert [t.token for t in draw(logits, *[row(Sampling())] * 3)] == [7, 7, 7]
    assert draw(logits[0], row(Sampling(logit_bias=(TokenBias(3, 2.0),))))[0].token == 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    observed = counts(LOGITS, Sampling(temperature=temperature, seed=3), draws=20000)
    assert_drawn_from(observed, softmax(LOGITS / temperature))


def test_draws_of_successive_seeds_at_one_position_follow_the_softmax():
    rows = [row(Sampling(temperature=1.0, seed=seed), position=0) for seed in range(20000)]
    logits = torch.from_numpy(LOGITS).expand(len(rows), -1).contiguous()
    drawn = Sampler(VOCAB, torch.device("cpu")).draw(logits, rows)
    assert_drawn_from(np.bincount([t.token for t in drawn], minlength=VOCAB), softmax(LOGITS))


def test_successive_draws_are_independent():
    logits = np.zeros(4, dtype=np.float32)
    rows = [row(Sampling(temperature=1.0, seed=1), position=p) for p in range(16001)]
    drawn = np.array([t.token for t in draw(np.tile(logits, (16001, 1)), *rows)])
    pairs = np.bincount(drawn[:-1] * 4 + drawn[1:], minlength=16)
    assert_drawn_from(pairs, np.full(16, 1 / 16))


def allowed_by(logits, sampling: Sampling) -> set[int]:
    """min-p, top-k, top-p written out token by token."""
    scaled = np.asarray(logits, dtype=np.float64) / sampling.temperature
    probabilities = softmax(scaled)
    kept = [i for i in range(len(scaled)) if probabilities[i] >= sampling.min_p * probabilities.max()]
    if sampling.top_k > 0:
        ranked = sorted(kept, key=lambda i: -scaled[i])
        last = ranked[min(sampling.top_k, len(ranked)) - 1]
        kept = [i for i in kept if scaled[i] >= scaled[last]]
    total = sum(probabilities[i] for i in kept)
    nucleus, mass = set(), 0.0
    for i in sorted(kept, key=lambda i: (-scaled[i], i)):
        if nucleus and mass >= sampling.top_p * total:
            break
        nucleus.add(i)
        mass += probabilities[i]
    return nucleus


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.3, top_k=5),
        Sampling(temperature=1.0, top_k=VOCAB + 5),
        Sampling(temperature=1.0, top_p=0.55),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.0, top_p=1e-9),
        Sampling(temperature=1.0, top_p=0.99999),
        Sampling(temperature=1.0, min_p=0.2),
        Sampling(temperature=2.0, min_p=0.05, top_k=12, top_p=0.8),
    ],
    ids=str,
)
def test_truncation_renormalises_what_it_keeps(sampling):
    kept = sorted(allowed_by(LOGITS, sampling))
    expected = np.zeros(VOCAB)
    expected[kept] = softmax(LOGITS[kept] / sampling.temperature)
    assert_drawn_from(counts(LOGITS, sampling), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 300),
    spread=st.sampled_from([0.1, 2.0, 12.0]),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    top_k=st.sampled_from([-1, 1, 2, 17, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_only_allowed_tokens_are_drawn(seed, size, spread, temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    observed = counts(logits, sampling, draws=20)
    assert set(np.flatnonzero(observed)) <= allowed_by(logits, sampling)


def test_top_k_keeps_what_ties_with_the_last():
    observed = counts([0.0, 3.0, 1.0, 1.0, -2.0], Sampling(temperature=1.0, top_k=2))
    assert set(np.flatnonzero(observed)) == {1, 2, 3}


def test_top_p_takes_equal_logits_in_order_of_their_ids():
    observed = counts(np.zeros(10), Sampling(temperature=1.0, top_p=0.35))
    assert set(np.flatnonzero(observed)) == {0, 1, 2, 3}


def with_penalties(logits, sampling: Sampling, prompt, generated) -> list[float]:
    """The penalties, one token after the other."""
    result = []
    for token, logit in enumerate(float(x) for x in logits):
        if token in sampling.stop_token_ids and len(generated) < sampling.min_tokens:
            logit = -math.inf
        logit += sum(bias.bias for bias in sampling.logit_bias if bias.token == token)
        if token in prompt or token in generated:
            logit = logit / sampling.repetition_penalty if logit > 0 else logit * sampling.repetition_penalty
        count = list(generated).count(token)
        logit -= sampling.frequency_penalty * count + sampling.presence_penalty * (count > 0)
        result.append(logit)
    return result


@given(
    seed=st.integers(0, 2**32 - 1),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    frequency=st.sampled_from([0.0, 0.4, -1.0]),
    presence=st.sampled_from([0.0, 0.7, -2.0]),
    min_tokens=st.integers(0, 8),
    biases=st.lists(st.tuples(st.integers(0, VOCAB - 1), st.floats(-5, 5)), max_size=4),
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=12),
    generated=st.lists(st.integers(0, VOCAB - 1), max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_greedy_takes_the_likeliest_after_penalties(
    seed, repetition, frequency, presence, min_tokens, biases, prompt, generated
):
    logits = np.random.default_rng(seed).normal(0, 2, VOCAB).astype(np.float32)
    sampling = Sampling(
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias=tuple(TokenBias(token, bias) for token, bias in biases),
        min_tokens=min_tokens,
        stop_token_ids=(4, int(logits.argmax())),
    )
    expected = with_penalties(logits, sampling, prompt, generated)
    (drawn,) = draw(logits, row(sampling, prompt=prompt, generated=generated))
    assert expected[drawn.token] == pytest.approx(max(expected), abs=1e-5)


def test_penalties_change_the_distribution_that_is_drawn_from():
    sampling = Sampling(
        temperature=0.8,
        repetition_penalty=1.5,
        frequency_penalty=0.3,
        presence_penalty=0.6,
        logit_bias=(TokenBias(0, 2.0), TokenBias(1, -100.0)),
        min_tokens=5,
        stop_token_ids=(2,),
    )
    prompt, generated = (3, 4, 5), (5, 6, 6)
    expected = softmax(np.array(with_penalties(LOGITS, sampling, prompt, generated)) / 0.8)
    assert expected[2] == 0
    expected[expected < 1e-12] = 0
    observed = counts(LOGITS, sampling, draws=20000, prompt=prompt, generated=generated)
    assert_drawn_from(observed, expected / expected.sum())


def test_stop_tokens_are_suppressed_until_min_tokens():
    logits = np.zeros(6)
    logits[5] = 10.0
    sampling = Sampling(min_tokens=2, stop_token_ids=(5,))
    tokens = [draw(logits, row(sampling, generated=[0] * n))[0].token for n in range(4)]
    assert tokens == [0, 0, 5, 5]


def test_logprobs_are_those_of_the_model_before_temperature_and_penalties():
    sampling = Sampling(temperature=0.5, top_k=3, repetition_penalty=2.0, logprobs=4, seed=8)
    (token,) = draw(LOGITS, row(sampling))
    expected = torch.log_softmax(torch.from_numpy(LOGITS).double(), dim=0)
    assert token.logprob == pytest.approx(float(expected[token.token]), abs=1e-5)
    ranked = expected.argsort(descending=True, stable=True)[:4].tolist()
    assert [item.token for item in token.top] == ranked
    assert [item.logprob for item in token.top] == pytest.approx(expected[ranked].tolist(), abs=1e-5)


def test_zero_logprobs_is_the_drawn_token_alone_and_more_than_the_vocabulary_is_all_of_it():
    (alone,) = draw(LOGITS, row(Sampling(logprobs=0)))
    assert alone.logprob is not None
    assert alone.top == ()
    (everything,) = draw([1.0, 1.0, 0.0], row(Sampling(logprobs=20)))
    assert [item.token for item in everything.top] == [0, 1, 2]


def test_scores_are_the_log_softmax_of_given_tokens():
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(1)) * 4
    targets = [ScoringRow(3, position, (position * 5) % VOCAB, position - 1) for position in range(1, 6)]
    scored = Sampler(VOCAB, torch.device("cpu")).score(logits, targets)
    expected = torch.log_softmax(logits.double(), dim=1)
    for target, token, own in zip(targets, scored, expected, strict=True):
        assert (token.sequence, token.position, token.token) == (3, target.position, target.token)
        assert token.logprob == pytest.approx(float(own[target.token]), abs=1e-5)
        assert [item.token for item in token.top] == own.argsort(descending=True)[: target.top].tolist()


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([-1, 6]),
    min_p=st.sampled_from([0.0, 0.1]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 5),
    logprobs=st.sampled_from([-1, 0, 3]),
)


@given(samplings=st.lists(SAMPLINGS, min_size=2, max_size=8), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_row_does_not_depend_on_the_rows_beside_it(samplings, seed, data):
    logits = torch.randn(len(samplings), 600, generator=torch.Generator().manual_seed(seed)) * 3
    rows = [row(s, sequence=i, position=i * 3 + 1, generated=[i, i + 1]) for i, s in enumerate(samplings)]
    sampler = Sampler(600, torch.device("cpu"))
    together = sampler.draw(logits, rows)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = sampler.draw(logits[list(order)], [rows[i] for i in order])
    assert shuffled == [together[i] for i in order]
    assert [sampler.draw(logits[i : i + 1], [rows[i]])[0] for i in range(len(rows))] == together


def test_the_same_key_draws_the_same_token_and_another_seed_or_position_another():
    flat = np.zeros(5000)
    one = row(Sampling(temperature=1.0, seed=1), position=4)
    other_seed, other_position = row(Sampling(temperature=1.0, seed=2), position=4), row(one.sampling, position=5)
    tokens = [t.token for t in draw(np.tile(flat, (4, 1)), one, one, other_seed, other_position)]
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


def test_the_noise_of_a_token_does_not_depend_on_truncation():
    logits = np.zeros(50)
    logits[:10] = 5.0
    for position in range(30):
        whole = draw(logits, row(Sampling(temperature=1.0, seed=9), position=position))[0].token
        if whole < 10:
            cut = draw(logits, row(Sampling(temperature=1.0, seed=9, top_k=10), position=position))[0].token
            assert cut == whole


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)], ids=["greedy", "drawn"])
def test_logits_that_are_not_finite_name_the_sequence(bad, sampling):
    logits = np.zeros((3, VOCAB))
    logits[1, 30] = bad
    with pytest.raises(SamplingError, match="sequence 12: logits are not finite") as caught:
        draw(logits, *[row(sampling, sequence=11 + i) for i in range(3)])
    assert caught.value.sequence == 12


def test_finite_logits_whose_sum_overflows_are_accepted():
    assert draw([3e38, 3e38, 1e38], row(Sampling()))[0].token == 0


def test_a_bias_for_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(SamplingError, match="sequence 4: logit_bias: 37 is no token"):
        draw(LOGITS, row(Sampling(logit_bias=(TokenBias(VOCAB, 1.0),)), sequence=4))


def test_a_row_without_any_token_left_is_refused():
    sampling = Sampling(temperature=1.0, min_tokens=1, stop_token_ids=(0, 1, 2))
    with pytest.raises(SamplingError, match="no token is left"):
        draw(np.zeros(3), row(sampling))
