"""An activation's bits depend neither on the number of threads nor on the rows beside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from deserve_node.shard.activation import PiecewiseActivation, split_activations


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "relu2"])
def test_neither_threads_nor_rows_nor_layout_change_a_bit(name: str) -> None:
    activation = PiecewiseActivation(ACT2FN[name])
    wide = torch.randn(64, 2 * 2048, generator=torch.Generator().manual_seed(0))
    rows = wide[:, :2048]
    torch.set_num_threads(1)
    expected = torch.cat([activation(part) for part in rows.split(16)])
    torch.testing.assert_close(expected, ACT2FN[name](rows))
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        assert torch.equal(activation(rows), expected)
        assert torch.equal(activation(rows.contiguous()[:48]), expected[:48])


def test_activations_are_wrapped_once_wherever_they_are() -> None:
    shared = ACT2FN["silu"]
    model = nn.ModuleDict({"first": nn.Sequential(nn.Linear(4, 4), shared), "second": nn.Sequential(shared)})
    split_activations(model)
    wrapped = [type(module) for module in model.modules() if isinstance(module, PiecewiseActivation)]
    assert len(wrapped) == 2
    assert not any(isinstance(m._activation, PiecewiseActivation) for m in model.modules() if type(m) in wrapped)
