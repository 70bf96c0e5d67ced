"""Wire codecs: what they keep, how many bytes they take, and that every implementation writes the same ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_kernels.codecs import CODECS, native, reference
from deserve_kernels.codecs.layout import GROUP, OUTLIERS, groups, int8_bytes
from deserve_kernels.errors import ArgumentError, PayloadError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = torch.finfo(torch.float32).max
SMALLEST = 1e-45
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def noisy(tokens: int, hidden: int, seed: int = 0) -> torch.Tensor:
    """Hidden states as a model has them: most values below 10, at most three of a token in the thousands."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, hidden, generator=generator) * 2
    for _ in range(3):
        place = torch.randint(0, hidden, (tokens, 1), generator=generator)
        values.scatter_(1, place, torch.randn(tokens, 1, generator=generator) * 8000)
    return values


def edge_cases() -> dict[str, torch.Tensor]:
    ties = torch.tensor([[3.0, -3.0] * 32 + [3.0] * 6])
    halves = torch.arange(-64.0, 64.0)[None] + 0.5
    return {
        "one group": noisy(3, 64),
        "several groups": noisy(17, 576, 1),
        "a partial group": noisy(5, 100, 2),
        "one value": noisy(4, 1, 3),
        "fewer values than outliers": noisy(4, 3, 4),
        "many tokens": noisy(300, 130, 5),
        "no tokens": torch.empty(0, 576),
        "no values": torch.empty(3, 0),
        "zeros": torch.zeros(2, 130),
        "negative zeros": -torch.zeros(2, 70),
        "equal magnitudes": ties,
        "values half way": torch.cat([torch.full((1, 4), 1e6), halves, torch.full((1, 1), 127.0)], 1),
        "the largest": torch.full((2, 200), LARGEST) * torch.tensor([[1.0], [-1.0]]),
        "the smallest": torch.full((2, 200), SMALLEST),
        "around the least peak": torch.full((1, 100), 2.0**-100).cumprod(0) * torch.linspace(0.98, 1.02, 100),
        "every exponent": (2.0 ** torch.arange(-149, 128, dtype=torch.float64)).float()[None].repeat(2, 1),
        "an infinity": torch.cat([noisy(1, 150), torch.full((1, 1), math.inf)], 1),
        "infinities": torch.full((1, 80), -math.inf),
        "nan": torch.full((2, 80), math.nan),
    }


CASES = edge_cases()


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    as_bytes = [bytes(t.contiguous().view(torch.uint8).numpy()) for t in (left, right)]
    return left.shape == right.shape and as_bytes[0] == as_bytes[1]


def int8_round_trip(hidden: torch.Tensor) -> torch.Tensor:
    return CODECS["int8"].decode(CODECS["int8"].encode(hidden), tuple(hidden.shape), hidden.dtype)


@pytest.mark.parametrize("hidden", CASES.values(), ids=CASES)
def test_compiled_kernels_write_and_read_the_references_bytes(hidden):
    assert native.available()
    packed = reference.pack_int8(hidden)
    assert packed.shape == (hidden.shape[0], int8_bytes(hidden.shape[1]))
    assert same_bytes(native.pack_int8(hidden), packed)
    assert same_bytes(native.round_bf16(hidden), reference.round_bf16(hidden))
    if not hidden.isnan().any():
        width = hidden.shape[1]
        assert same_bytes(
            native.unpack_int8(packed, width).nan_to_num(), reference.unpack_int8(packed, width).nan_to_num()
        )


@settings(max_examples=200)
@given(st.integers(1, 140).flatmap(lambda n: st.lists(FINITE, min_size=n, max_size=n)))
def test_any_finite_token_has_the_same_bytes_everywhere_and_stays_finite(values):
    hidden = torch.tensor([values])
    packed = reference.pack_int8(hidden)
    assert same_bytes(native.pack_int8(hidden), packed)
    assert same_bytes(native.unpack_int8(packed, hidden.shape[1]), reference.unpack_int8(packed, hidden.shape[1]))
    assert int8_round_trip(hidden).isfinite().all()


@settings(max_examples=200)
@given(st.integers(5, 140).flatmap(lambda n: st.lists(FINITE, min_size=n, max_size=n)))
def test_int8_is_off_by_at_most_half_a_step_of_its_group(values):
    hidden = torch.tensor([values])
    decoded = int8_round_trip(hidden)[0].double()
    order = sorted(range(len(values)), key=lambda i: (-abs(hidden[0, i].item()), i))
    outliers = set(order[:OUTLIERS])
    for group in range(groups(len(values))):
        members = [i for i in range(group * GROUP, min(len(values), (group + 1) * GROUP)) if i not in outliers]
        peak = max((abs(hidden[0, i].item()) for i in members), default=0.0)
        # A scale of eight binary digits is off by 2^-9 of itself; below 2^-100 a group is nothing.
        bound = max(
            peak / 127 * 0.5 * (1 + 2**-7), peak * 2**-8 if peak > 1e38 else 0, 2.0**-100 if peak < 2.0**-99 else 0
        )
        for i in members:
            assert abs(decoded[i].item() - hidden[0, i].item()) <= bound
    for i in outliers:
        exact = hidden[0, i].item()
        assert abs(decoded[i].item() - exact) <= max(abs(exact) * 2**-8, 2.0**-133)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_what_is_encoded_has_the_length_it_says_and_its_shape_again(name, dtype):
    codec, hidden = CODECS[name], noisy(7, 100).to(dtype)
    encoded = codec.encode(hidden)
    assert encoded.nbytes == 7 * codec.bytes_per_token(100, dtype)
    decoded = codec.decode(encoded, (7, 100), dtype)
    assert (decoded.shape, decoded.dtype) == (hidden.shape, dtype)
    assert torch.equal(decoded, hidden) or not codec.lossless
    torch.testing.assert_close(decoded.float(), hidden.float(), rtol=2**-8, atol=0.1)


def test_the_demo_models_token_takes_610_bytes():
    assert [CODECS[name].bytes_per_token(576, torch.float32) for name in ("raw", "bf16", "int8")] == [2304, 1152, 610]


@pytest.mark.parametrize("name", ["bf16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_of_a_dtype_stay_finite(name, dtype):
    hidden = torch.full((2, 200), torch.finfo(dtype).max, dtype=dtype)
    decoded = CODECS[name].decode(CODECS[name].encode(hidden), (2, 200), dtype)
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded.float() / torch.finfo(dtype).max, torch.ones(2, 200), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", CODECS)
def test_a_token_that_is_not_finite_stays_so_and_leaves_the_others_alone(name):
    hidden = noisy(3, 200)
    hidden[1, 5:12] = math.nan
    clean = noisy(3, 200)
    codec = CODECS[name]
    decoded = codec.decode(codec.encode(hidden), (3, 200), torch.float32)
    expected = codec.decode(codec.encode(clean), (3, 200), torch.float32)
    assert decoded[1].isnan().any()
    assert torch.equal(decoded[::2], expected[::2])


@pytest.mark.parametrize("name", CODECS)
def test_a_tokens_bytes_do_not_depend_on_the_tokens_around_it(name):
    hidden, codec = noisy(40, 576), CODECS[name]
    together = bytes(codec.encode(hidden))
    assert together == b"".join(bytes(codec.encode(hidden[i : i + 1])) for i in range(40))


def test_raw_is_the_tensors_own_memory_in_both_directions():
    hidden = noisy(4, 64)
    encoded = CODECS["raw"].encode(hidden)
    hidden[2, 3] = 17.5
    decoded = CODECS["raw"].decode(encoded, (4, 64), torch.float32)
    assert decoded[2, 3] == 17.5
    assert decoded.data_ptr() == hidden.data_ptr()


def test_memory_that_must_not_be_written_to_is_copied():
    encoded = bytes(CODECS["raw"].encode(noisy(4, 64)))
    decoded = CODECS["raw"].decode(memoryview(encoded), (4, 64), torch.float32)
    decoded.zero_()
    assert encoded == bytes(CODECS["raw"].encode(noisy(4, 64)))


@pytest.mark.parametrize("name", CODECS)
def test_bytes_at_any_address_are_decoded(name):
    codec, hidden = CODECS[name], noisy(3, 64)
    encoded = codec.encode(hidden)
    for offset in (1, 2, 3):
        buffer = memoryview(bytearray(offset) + bytearray(encoded))[offset:]
        expected = codec.decode(encoded, (3, 64), torch.float32)
        assert torch.equal(codec.decode(buffer, (3, 64), torch.float32), expected)


def test_a_strided_tensor_is_encoded_row_by_row():
    hidden = noisy(64, 70).t()
    for codec in CODECS.values():
        assert bytes(codec.encode(hidden)) == bytes(codec.encode(hidden.contiguous()))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("change", [-1, 1, 610])
def test_a_buffer_of_another_length_is_refused_naming_both(name, change):
    codec = CODECS[name]
    right = 3 * codec.bytes_per_token(576, torch.float32)
    with pytest.raises(PayloadError, match=f"{name}: {right + change} bytes, expected {right}"):
        codec.decode(memoryview(bytearray(right + change)), (3, 576), torch.float32)
    with pytest.raises(PayloadError):
        codec.decode(memoryview(b""), (-1, 576), torch.float32)


@pytest.mark.parametrize("unpack", [native.unpack_int8, reference.unpack_int8])
def test_an_outlier_outside_its_token_is_refused(unpack):
    packed = reference.pack_int8(noisy(3, 100))
    packed[2, 4:6] = torch.tensor([128, 0], dtype=torch.uint8)
    with pytest.raises(PayloadError, match="128 values"):
        unpack(packed, 100)


@settings(max_examples=200)
@given(st.integers(0, 3), st.integers(0, 130), st.sampled_from(sorted(CODECS)), st.sampled_from(DTYPES), st.data())
def test_garbage_is_a_tensor_or_a_payload_error(tokens, hidden, name, dtype, data):
    size = tokens * CODECS[name].bytes_per_token(hidden, dtype)
    garbage = data.draw(st.binary(min_size=size, max_size=size))
    try:
        decoded = CODECS[name].decode(memoryview(garbage), (tokens, hidden), dtype)
    except PayloadError:
        return
    assert (decoded.shape, decoded.dtype) == ((tokens, hidden), dtype)


def test_garbage_is_read_alike_by_both():
    generator = torch.Generator().manual_seed(3)
    packed = torch.randint(0, 256, (50, int8_bytes(200)), dtype=torch.uint8, generator=generator)
    packed[:, 1:16:4] = 0  # indices below 256, many of them twice
    packed[:, 16 : 16 + 2 * groups(200)] &= 0x3F  # scales that are numbers
    assert same_bytes(native.unpack_int8(packed, 200).nan_to_num(), reference.unpack_int8(packed, 200).nan_to_num())


def test_hidden_states_of_another_shape_or_dtype_are_refused():
    for wrong in (torch.zeros(4), torch.zeros(2, 4, dtype=torch.float64), torch.zeros(1, (1 << 16) + 1)):
        for codec in CODECS.values():
            with pytest.raises(ArgumentError, match="hidden"):
                codec.encode(wrong)
