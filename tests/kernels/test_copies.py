"""Copies of pages between layers and an arena: compiled and reference alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_kernels import copy_pages, reference
from deserve_kernels.copies import page_sizes
from deserve_kernels.errors import ArgumentError

SLOTS, PLACES = 6, 9


def layers(dtype: torch.dtype = torch.float32, count: int = 3) -> list[torch.Tensor]:
    """Keys and values of layers that differ in width, every page different."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SLOTS, 2, 4, 3 + n, generator=generator).to(dtype) for n in range(count)]


def arena_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.zeros(PLACES, sum(page_sizes(tensors)), dtype=torch.uint8)


@pytest.mark.parametrize("copy", [copy_pages, reference.copy_pages], ids=["compiled", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_went_out_comes_back_into_other_slots(copy, dtype):
    tensors = layers(dtype)
    before = [tensor.clone() for tensor in tensors]
    arena = arena_of(tensors)
    copy(tensors, arena, torch.tensor([4, 0]), torch.tensor([8, 2]), inward=False)
    copy(tensors, arena, torch.tensor([1, 5]), torch.tensor([2, 8]), inward=True)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor[[1, 5]], old[[0, 4]])
        assert torch.equal(tensor[[0, 2, 3, 4]], old[[0, 2, 3, 4]])


def test_all_layers_of_a_page_lie_side_by_side():
    tensors = layers()
    arena = arena_of(tensors)
    copy_pages(tensors, arena, torch.tensor([3]), torch.tensor([7]), inward=False)
    assert arena[7].view(torch.float32).tolist() == [x for tensor in tensors for x in tensor[3].flatten().tolist()]
    assert not arena[:7].any()


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.integers(0, SLOTS - 1), st.integers(0, PLACES - 1)), unique_by=(lambda p: p[0], lambda p: p[1])
    ),
    inward=st.booleans(),
)
def test_the_compiled_kernel_equals_the_reference(pairs, inward):
    found, expected = layers(), layers()
    arenas = [torch.arange(arena_of(found).numel()).to(torch.uint8).view_as(arena_of(found)) for _ in range(2)]
    slots, places = (
        torch.tensor(side, dtype=torch.int64) for side in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    copy_pages(found, arenas[0], slots, places, inward=inward)
    reference.copy_pages(expected, arenas[1], slots, places, inward=inward)
    assert torch.equal(arenas[0], arenas[1])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.parametrize(("slot", "place"), [(-1, 0), (SLOTS, 0), (0, -1), (0, PLACES)])
def test_a_slot_or_place_outside_is_refused_and_nothing_is_copied(slot, place):
    tensors = layers()
    arena = arena_of(tensors)
    with pytest.raises(ArgumentError, match="outside"):
        copy_pages(tensors, arena, torch.tensor([0, slot]), torch.tensor([0, place]), inward=False)
    assert not arena.any()


def test_shapes_that_do_not_fit_are_refused():
    tensors = layers()
    arena = arena_of(tensors)
    one = torch.tensor([0])
    with pytest.raises(ArgumentError, match="arena"):
        copy_pages(tensors, arena[:, 1:], one, one, inward=True)
    with pytest.raises(ArgumentError, match="tensors"):
        copy_pages([*tensors[1:], tensors[0][:2]], arena, one, one, inward=True)
    with pytest.raises(ArgumentError, match="int64"):
        copy_pages(tensors, arena, one.int(), one, inward=True)
