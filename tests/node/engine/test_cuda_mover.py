"""The mover of a CUDA device. What needs none is tested everywhere, the copies where there is one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.ring_messages import Chunk
from deserve_node.engine import KvCache
from deserve_node.engine.cuda_mover import CudaMover, runs
from deserve_node.engine.ledger import Ledger
from deserve_node.engine.swap import Swapper
from deserve_node.shard.attention import KvLayer


@given(st.lists(st.integers(0, 30), unique=True).map(sorted))
def test_runs_cover_every_place_once_and_no_two_could_be_one(places: list[int]) -> None:
    found = list(runs(places))
    assert [place + n for _, place, count in found for n in range(count)] == places
    assert [index + n for index, _, count in found for n in range(count)] == list(range(len(places)))
    assert all(a[1] + a[2] < b[1] for a, b in itertools.pairwise(found))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pages_come_back_as_they_left() -> None:
    device = torch.device("cuda")
    layers = [KvLayer(layer, 2, 64, 64, 0, 0) for layer in range(3)]
    page = 3 * 2 * 2 * 16 * 64 * 2
    cache = KvCache(layers, kv_bytes=8 * page, host_bytes=64 * page, dtype=torch.bfloat16, device=device)
    swapper = Swapper(Ledger(cache.shapes), CudaMover(cache, device))
    swapper.tune(8, 2, 1)
    for turn in range(4):
        for row in range(8):
            number = swapper.begin(row, (), [Chunk(row, turn * 16, 16, 0)])
            (table,), _ = swapper.wait(number)
            for layer in range(3):
                keys, values = cache.pages(layer)
                for seen in range(turn):
                    assert bool((keys[int(table[0, seen])] == 100 * row + 10 * seen + layer).all())
                keys[int(table[0, turn])] = 100 * row + 10 * turn + layer
                values[int(table[0, turn])] = -1.0
            swapper.end(number)
    swapper.close()
