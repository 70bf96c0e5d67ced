"""Tensors as raw bytes."""

from __future__ import annotations

import pytest
import torch

from deserve_node.tensors import DTYPES, PayloadError, from_bytes, to_bytes


@pytest.mark.parametrize("name", DTYPES)
def test_bytes_give_the_same_tensor_in_memory_of_its_own(name):
    tensor = torch.randn(3, 5).to(DTYPES[name])
    payload = bytearray(to_bytes(tensor))
    again = from_bytes(memoryview(payload), (3, 5), DTYPES[name])
    payload[:] = bytes(len(payload))
    assert torch.equal(again, tensor)


def test_a_strided_tensor_travels_row_by_row():
    tensor = torch.arange(12.0).view(3, 4).t()
    assert torch.equal(from_bytes(to_bytes(tensor), (4, 3), torch.float32), tensor)


@pytest.mark.parametrize("size", [0, 59, 61, 120])
def test_a_payload_of_the_wrong_size_is_refused_naming_both(size):
    with pytest.raises(PayloadError, match=f"{size} bytes, expected 60"):
        from_bytes(memoryview(bytes(size)), (3, 5), torch.float32)
