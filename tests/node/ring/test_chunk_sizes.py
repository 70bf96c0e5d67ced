"""How many tokens of a prompt join a step, against trying every count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deserve_plan.cost import StageCost, StepLoad, largest_chunk

LLAMA_70B = StageCost(0.0663, 0.000278, pair_s=2e-9)


@given(
    fixed=st.floats(0, 0.1),
    token=st.floats(1e-6, 1e-3),
    wanted=st.floats(0, 1e-4),
    pair=st.sampled_from([0.0, 1e-9, 1e-7, 1e-5]),
    granularity=st.sampled_from([1, 16]),
    decodes=st.integers(0, 80),
    start=st.integers(0, 5000),
    budget=st.floats(0, 0.3),
    most=st.integers(2, 300),
    scored=st.booleans(),
)
def test_a_chunk_fits_its_budget_and_the_next_whole_granule_would_not(
    fixed: float,
    token: float,
    wanted: float,
    pair: float,
    granularity: int,
    decodes: int,
    start: int,
    budget: float,
    most: int,
    scored: bool,
) -> None:
    cost = StageCost(fixed, token, wanted, 1e-7, pair, granularity)
    load = StepLoad(decodes, decodes, decodes * 100, 0)

    def step_s(count: int) -> float:
        pairs = count * start + count * (count + 1) // 2
        return cost.step_s(load + StepLoad(count, count if scored else 0, 0, pairs))

    count = largest_chunk(cost, load, start, budget, most, scored=scored)
    assert 0 <= count <= most
    if count:
        assert step_s(count) <= budget + 1e-9
    if count < most:
        # Inside a granule the pairs of one more token are too dear, at its end the next granule is.
        within = (decodes + count) % granularity
        following = count + 1 if within and count else min(most, count + granularity - within)
        assert step_s(following) > budget - 1e-9


def test_late_chunks_of_a_long_prompt_are_shorter_and_take_as_long() -> None:
    early = largest_chunk(LLAMA_70B, StepLoad(), 0, 0.2, 100_000)
    late = largest_chunk(LLAMA_70B, StepLoad(), 100_000, 0.2, 100_000)
    assert late < early
    for start, count in ((0, early), (100_000, late)):
        assert 0.198 < LLAMA_70B.step_s(StepLoad.of_chunk(start, count, 0)) <= 0.2
