"""Norms, rotations and gates: compiled and reference agree, and a token's bits depend on nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deserve_kernels import reference, rms_norm, rotate, silu_mul
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "tokens", "dim"), [(1, 1, 1, 2), (4, 2, 5, 6), (3, 3, 7, 80), (9, 3, 16, 64), (2, 1, 0, 8)]
)
def test_a_compiled_rotation_has_the_bits_of_the_reference(heads, kv_heads, tokens, dim, dtype):
    q, k = numbers(heads, tokens, dim, dtype=dtype), numbers(kv_heads, tokens, dim, dtype=dtype, seed=1)
    angles = numbers(tokens, dim, seed=2)
    tables = angles.cos().to(dtype), angles.sin().to(dtype)
    for found, expected in zip(rotate(q, k, *tables), reference.rotate(q, k, *tables), strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, expected)


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


@pytest.mark.usefixtures("threads")
def test_a_rotation_on_several_threads_has_the_bits_of_one():
    q, k, angles = numbers(9, 500, 64), numbers(3, 500, 64, seed=1), numbers(500, 64, seed=2)
    expected = reference.rotate(q, k, angles.cos(), angles.sin())
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        found = rotate(q, k, angles.cos(), angles.sin())
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_views_are_read_as_they_are():
    wide = numbers(6, 40)
    left, right = wide.split(20, dim=1)
    assert torch.equal(rms_norm(left, right[0], EPS), rms_norm(left.clone(), right[0].clone(), EPS))
    assert torch.equal(silu_mul(left, right), silu_mul(left.clone(), right.clone()))
    q, k = numbers(6, 5, 8).transpose(0, 1), numbers(8, 6, 2).permute(2, 1, 0)
    cos, sin = left[:, :8], right[:, :8]
    for found, expected in zip(rotate(q, k, cos, sin), reference.rotate(q, k, cos, sin), strict=True):
        assert torch.equal(found, expected)


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
    heads, angles = torch.ones(2, 3, 8), torch.ones(3, 8)
    with pytest.raises(ArgumentError, match="q: shape"):
        rotate(torch.ones(2, 3, 7), heads, angles, angles)
    with pytest.raises(ArgumentError, match="k: shape"):
        rotate(heads, torch.ones(2, 4, 8), angles, angles)
    with pytest.raises(ArgumentError, match="sin: shape"):
        rotate(heads, heads, angles, torch.ones(3, 4))
