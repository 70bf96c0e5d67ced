"""The Triton copies in Triton's interpreter on CPU tensors, and compiled where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch
from interpreter import triton_interpreter

from deserve_kernels import reference
from deserve_kernels.errors import ArgumentError

CASES = [
    (torch.float32, (2, 16, 40)),
    (torch.bfloat16, (3, 4, 24)),
    (torch.bfloat16, (1, 1, 5)),
]


def round_trip(device: str, dtype: torch.dtype, page: tuple[int, ...]) -> None:
    """Out to a staging buffer and back into other slots, both compared with the reference."""
    from deserve_kernels.triton_copies import StagedPages

    generator = torch.Generator().manual_seed(2)
    shapes = [(7, *page), (7, page[0], page[1], page[2] + 3)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    ours = [tensor.clone().to(device) for tensor in tensors]
    staged = StagedPages(ours)
    staging = torch.zeros(5, staged.page_bytes, dtype=torch.uint8, device=device)
    expected = torch.zeros(5, staged.page_bytes, dtype=torch.uint8)
    slots, rows = torch.tensor([6, 0, 3]), torch.arange(3)
    staged.copy(staging, slots.to(device), inward=False)
    reference.copy_pages(tensors, expected, slots, rows, inward=False)
    assert torch.equal(staging.cpu(), expected)
    slots = torch.tensor([1, 2, 5])
    staged.copy(staging, slots.to(device), inward=True)
    reference.copy_pages(tensors, expected, slots, rows, inward=True)
    for tensor, other in zip(ours, tensors, strict=True):
        assert torch.equal(tensor.cpu().view(torch.uint8), other.view(torch.uint8))
    with pytest.raises(ArgumentError, match="staging"):
        staged.copy(staging[:2], slots.to(device), inward=True)


@triton_interpreter
@pytest.mark.parametrize(("dtype", "page"), CASES)
def test_interpreted_copies_equal_the_reference(dtype, page):
    round_trip("cpu", dtype, page)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "page"), CASES)
def test_compiled_copies_equal_the_reference(dtype, page):
    round_trip("cuda", dtype, page)
