"""Gumbel noise is a pure function of its key, the same in C++ and torch, and has the Gumbel distribution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deserve_kernels import gumbel, reference
from deserve_kernels.errors import ArgumentError
from deserve_kernels.library import native_library
from deserve_kernels.noise import gumbel_of

INT64 = st.integers(-(2**63), 2**63 - 1)


def keys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def splitmix64(state: int) -> int:
    """The published generator: its n-th output is the finalizer of seed + n * golden."""
    state &= 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
    return state ^ (state >> 31)


def test_the_hash_is_splitmix64():
    # First output of splitmix64 seeded with 0, from the reference implementation (Vigna, prng.di.unimi.it).
    golden = 0x9E3779B97F4A7C15
    assert splitmix64(golden) == 0xE220A8397B1DCDAF
    row = splitmix64(splitmix64(12345 + golden) + 678 * golden + golden)
    expected = [splitmix64(row + (token + 1) * golden) for token in range(5)]
    bits = reference.noise_bits(keys(12345), keys(678), torch.arange(5))[0]
    assert [b % 2**64 for b in bits.tolist()] == expected


@given(seed=INT64, position=INT64)
def test_compiled_and_reference_hashes_are_the_same_integers(seed, position):
    library = native_library()
    assert library is not None
    bits = torch.empty(40, dtype=torch.int64)
    library.deserve_noise_bits(seed, position, bits.data_ptr(), 40)
    assert torch.equal(bits, reference.noise_bits(keys(seed), keys(position), torch.arange(40))[0])


def test_compiled_and_reference_noise_agree():
    seeds, positions = torch.arange(64) * 7919 - 200, torch.arange(64) % 5
    torch.testing.assert_close(
        gumbel(seeds, positions, 4001), reference.gumbel(seeds, positions, 4001), rtol=2e-6, atol=2e-6
    )


def test_chosen_tokens_have_the_noise_they_have_in_the_vocabulary():
    seeds, positions = keys(1, 2, 3), keys(9, 9, 8)
    tokens = torch.randint(0, 5000, (3, 77), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gumbel_of(seeds, positions, tokens), gumbel(seeds, positions, 5000).gather(1, tokens))


def test_a_row_does_not_depend_on_the_others():
    seeds, positions = torch.arange(9), torch.arange(9) * 3
    together = gumbel(seeds, positions, 1001)
    for row in range(9):
        assert torch.equal(gumbel(seeds[row : row + 1], positions[row : row + 1], 1001)[0], together[row])


def test_seed_position_and_token_each_change_the_noise():
    rows = gumbel(keys(1, 2, 1, 0), keys(1, 1, 2, 0), 1000)
    assert rows.unique().numel() > 3980


@pytest.mark.parametrize("axis", ["tokens", "positions", "seeds"])
def test_the_distribution_is_gumbels_along_every_axis(axis):
    n = 200_000
    if axis == "tokens":
        noise = gumbel(keys(5), keys(6), n).flatten()
    elif axis == "positions":
        noise = gumbel(torch.full((n,), 5), torch.arange(n), 1).flatten()
    else:
        noise = gumbel(torch.arange(n), torch.full((n,), 6), 1).flatten()
    assert noise.isfinite().all()
    cdf = torch.exp(-torch.exp(-noise.double())).sort().values
    # Kolmogorov and Smirnov's statistic; 1.95 / sqrt(n) is exceeded once in a thousand, and the keys are fixed.
    assert float((cdf - torch.arange(n) / n).abs().max()) < 1.95 / math.sqrt(n)


def test_large_noise_is_as_fine_as_its_probability():
    # P(noise > 16.7) is 5.6e-8: a 24-bit uniform would end near here.
    noise = gumbel(torch.arange(4000), torch.zeros(4000, dtype=torch.int64), 10_000)
    above = noise[noise > 12]
    expected = noise.numel() * (1 - math.exp(-math.exp(-12)))
    assert abs(above.numel() - expected) < 5 * math.sqrt(expected)
    assert above.unique().numel() > 0.99 * above.numel()


def test_keys_of_the_wrong_shape_or_dtype_are_refused():
    with pytest.raises(ArgumentError, match="int64"):
        gumbel(torch.zeros(2), keys(1, 2), 5)
    with pytest.raises(ArgumentError, match="tokens"):
        gumbel_of(keys(1), keys(1), keys(1))
