"""A fingerprint is the same wherever it is computed, and as far from another as what was computed is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.fingerprints import PROJECTIONS, project, signs

SEED = bytes(range(32))


def states(tokens: int, hidden: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(tokens)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(deadline=None)
@given(tokens=st.integers(0, 20), hidden=st.integers(1, 90), seed=st.binary(min_size=32, max_size=32))
def test_the_product_is_the_references(dtype, tokens, hidden, seed):
    values = states(tokens, hidden, dtype)
    projected = project(values, seed)
    assert projected.dtype is torch.float32
    assert projected.shape == (tokens, PROJECTIONS)
    torch.testing.assert_close(projected, reference.project(values, seed), rtol=1e-5, atol=1e-5)


def test_signs_are_fair_and_each_seed_has_its_own():
    drawn = signs(SEED, 4096)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(drawn.mean())) < 5 / drawn.numel() ** 0.5
    other = signs(bytes(32), 4096)
    assert abs(float((drawn * other).mean())) < 5 / drawn.numel() ** 0.5


def test_the_matrix_of_a_seed_is_fixed_for_good():
    # Fingerprints are signed and compared across versions: these bits may never change.
    first = signs(SEED, 2)[0].tolist()
    assert first == [-1, -1, -1, 1, -1, 1, -1, 1, -1, 1, -1, -1, 1, 1, 1, 1]


def test_what_is_returned_may_be_changed_without_harm():
    signs(SEED, 64).zero_()
    assert float(signs(SEED, 64).abs().min()) == 1.0


def test_a_fingerprint_measures_how_far_off_a_token_is():
    true = states(500, 1024)
    off = true + 0.1 * states(500, 1024).flip(0)
    measured = (project(off, SEED) - project(true, SEED)).norm(dim=1) / PROJECTIONS**0.5
    actual = (off - true).norm(dim=1) / 1024**0.5
    # chi-square with 16 degrees of freedom: below 3.5 or above 48 once in ten thousand.
    ratio = (measured / actual) ** 2 * PROJECTIONS
    assert float(ratio.mean()) == pytest.approx(PROJECTIONS, rel=0.05)
    assert float(ratio.min()) > 2
    assert float(ratio.max()) < 60


def test_a_tokens_fingerprint_does_not_depend_on_its_neighbours_beyond_rounding():
    values = states(64, 576)
    torch.testing.assert_close(project(values[5:6], SEED), project(values, SEED)[5:6], rtol=1e-5, atol=1e-5)


def test_numbers_that_are_not_finite_stay_so():
    values = states(3, 64)
    values[1, 7] = torch.nan
    projected = project(values, SEED)
    assert projected[1].isnan().all()
    assert projected[[0, 2]].isfinite().all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_agrees_with_the_cpu():
    values = states(100, 1024, torch.bfloat16)
    torch.testing.assert_close(project(values.cuda(), SEED).cpu(), project(values, SEED), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ArgumentError, match="seed"):
        project(states(1, 8), b"short")
    with pytest.raises(ArgumentError, match="hidden"):
        project(states(1, 8).double(), SEED)
    with pytest.raises(ArgumentError, match="hidden"):
        project(states(1, 8)[0], SEED)
