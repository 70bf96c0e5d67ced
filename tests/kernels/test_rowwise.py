"""Norms and gates: compiled and reference agree, and a token's bits depend on nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deserve_kernels import reference, rms_norm, silu_mul
from deserve_kernels.errors import ArgumentError

TOLERANCE = {torch.float32: {"rtol": 3e-6, "atol": 1e-6}, torch.bfloat16: {"rtol": 2**-7, "atol": 1e-6}}
"""For bf16 one unit in the last place."""
EPS = 1e-5


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 16), (4, 77), (16, 576), (0, 8)])
def test_a_compiled_norm_agrees_with_the_reference(shape, dtype):
    x, weight = numbers(*shape, dtype=dtype), numbers(shape[-1], dtype=dtype, seed=1)
    found = rms_norm(x, weight, EPS)
    assert found.dtype == dtype
    torch.testing.assert_close(found, reference.rms_norm(x, weight, EPS), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 16), (4, 77), (16, 1536), (0, 8)])
def test_a_compiled_gate_agrees_with_the_reference(shape, dtype):
    gate, up = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    found = silu_mul(gate, up)
    assert found.dtype == dtype
    torch.testing.assert_close(found, reference.silu_mul(gate, up), **TOLERANCE[dtype])


def test_bf16_is_rounded_where_torch_rounds():
    x, weight = numbers(64, 576, dtype=torch.bfloat16), numbers(576, dtype=torch.bfloat16, seed=1)
    assert (rms_norm(x, weight, EPS) == reference.rms_norm(x, weight, EPS)).float().mean() > 0.999
    assert (silu_mul(x, x.flip(0)) == reference.silu_mul(x, x.flip(0))).float().mean() > 0.999


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_not_finite_stays_so_and_large_gates_open_or_shut(dtype):
    gate = torch.tensor([torch.nan, torch.inf, -torch.inf, -1e30, -100.0, 100.0, 1e30, 0.0], dtype=dtype)
    ones = torch.ones_like(gate)
    torch.testing.assert_close(silu_mul(gate, ones), reference.silu_mul(gate, ones), equal_nan=True)
    rows = torch.ones(3, 20, dtype=dtype)
    rows[1, 17] = torch.nan
    assert rms_norm(rows, torch.ones(20, dtype=dtype), EPS).isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [77, 576])
def test_neither_threads_nor_rows_beside_change_a_bit(width, dtype):
    x, up = numbers(2000, width, dtype=dtype), numbers(2000, width, dtype=dtype, seed=1)
    weight = up[0].clone()
    torch.set_num_threads(1)
    normed = torch.cat([rms_norm(row, weight, EPS) for row in x.split(1)])
    gated = torch.cat([silu_mul(*row) for row in zip(x.split(1), up.split(1), strict=True)])
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        for rows in (slice(2000), slice(3, 1999), slice(5, 21)):
            assert torch.equal(rms_norm(x[rows], weight, EPS), normed[rows])
            assert torch.equal(silu_mul(x[rows], up[rows]), gated[rows])


def test_views_are_read_as_they_are():
    wide = numbers(6, 40)
    left, right = wide.split(20, dim=1)
    assert torch.equal(rms_norm(left, right[0], EPS), rms_norm(left.clone(), right[0].clone(), EPS))
    assert torch.equal(silu_mul(left, right), silu_mul(left.clone(), right.clone()))


def test_a_weight_kept_in_fp32_promotes_as_in_torch():
    x, weight = numbers(4, 32, dtype=torch.bfloat16), numbers(32, seed=1)
    found = rms_norm(x, weight, EPS)
    assert found.dtype == torch.float32
    assert torch.equal(found, reference.rms_norm(x, weight, EPS))


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    with pytest.raises(ArgumentError, match="weight"):
        rms_norm(torch.ones(2, 8), torch.ones(7), EPS)
    with pytest.raises(ArgumentError, match="up"):
        silu_mul(torch.ones(2, 8), torch.ones(2, 7))
    with pytest.raises(ArgumentError, match="up"):
        silu_mul(torch.ones(2, 8), torch.ones(2, 8, dtype=torch.bfloat16))
