"""Writes into pages: compiled and reference alike."""

from __future__ import annotations

import pytest
import torch

from deserve_kernels import reference, write_kv
from deserve_kernels.errors import ArgumentError


@pytest.fixture(params=[write_kv, reference.write_kv], ids=["compiled", "reference"])
def write(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_token_lands_in_its_slot_and_nothing_else_changes(write, dtype):
    key_pages, value_pages = torch.zeros(5, 2, 8, 3, dtype=dtype), torch.zeros(5, 2, 8, 6, dtype=dtype)
    keys, values = torch.randn(4, 2, 3), torch.randn(4, 2, 6)
    slots = torch.tensor([39, 0, 17, 8])
    write(key_pages, value_pages, keys, values, slots)
    for token, slot in enumerate(slots.tolist()):
        assert torch.equal(key_pages[slot // 8, :, slot % 8], keys[token].to(dtype))
        assert torch.equal(value_pages[slot // 8, :, slot % 8], values[token].to(dtype))
    assert int(key_pages.ne(0).sum()) == keys.numel()


def test_strided_rows_are_written_as_they_read(write):
    pages = torch.zeros(2, 2, 4, 3), torch.zeros(2, 2, 4, 3)
    keys, values = torch.randn(2, 5, 3).transpose(0, 1), torch.randn(5, 3, 2).transpose(1, 2)
    write(*pages, keys, values, torch.arange(5))
    assert torch.equal(pages[0].transpose(1, 2).reshape(8, 2, 3)[:5], keys)
    assert torch.equal(pages[1].transpose(1, 2).reshape(8, 2, 3)[:5], values)


@pytest.mark.parametrize("slot", [-1, 40])
def test_a_slot_outside_the_pages_is_refused_and_nothing_is_written(slot):
    pages = torch.zeros(5, 2, 8, 3), torch.zeros(5, 2, 8, 3)
    with pytest.raises(ArgumentError, match="slots: outside"):
        write_kv(*pages, torch.ones(2, 2, 3), torch.ones(2, 2, 3), torch.tensor([0, slot]))
    assert not pages[0].any()


def test_shapes_that_do_not_fit_are_refused():
    pages = torch.zeros(5, 2, 8, 3), torch.zeros(5, 2, 8, 4)
    with pytest.raises(ArgumentError, match="values: shape"):
        write_kv(*pages, torch.ones(2, 2, 3), torch.ones(2, 2, 3), torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match="int64"):
        write_kv(*pages, torch.ones(1, 2, 3), torch.ones(1, 2, 4), torch.tensor([0], dtype=torch.int32))
