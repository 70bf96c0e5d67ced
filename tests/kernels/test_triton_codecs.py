"""The Triton packing in Triton's interpreter on CPU tensors, and compiled where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch
from interpreter import triton_interpreter

from deserve_kernels.codecs import reference

SHAPES = {"one group": (3, 64), "groups": (5, 576), "partial": (4, 100), "few values": (4, 3), "wide": (2, 2048)}
EXTREMES = (0.0, -0.0, 1e-45, 2.0**-100, 2.0**-101, 3.5, -3.5, 3.0e38, torch.finfo(torch.float32).max)


def states(tokens: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """Noise with outliers, a token of zeros, and one of extremes, many of which tie."""
    generator = torch.Generator().manual_seed(tokens * hidden)
    values = torch.randn(tokens, hidden, generator=generator) * 3
    values = torch.where(torch.rand(tokens, hidden, generator=generator) < 0.02, values * 3000, values)
    values[0] = 0.0
    values[1] = torch.tensor(EXTREMES).repeat(-(-hidden // len(EXTREMES)))[:hidden]
    return values.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)


@triton_interpreter
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_interpreted_packing_writes_the_references_bytes(shape):
    from deserve_kernels.codecs import triton_int8

    hidden = states(*shape, torch.float32)
    assert torch.equal(triton_int8.pack_int8(hidden), reference.pack_int8(hidden))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_compiled_packing_writes_the_references_bytes(shape, dtype):
    from deserve_kernels.codecs import triton_int8

    hidden = states(*shape, dtype)
    assert torch.equal(triton_int8.pack_int8(hidden.cuda()).cpu(), reference.pack_int8(hidden))
