"""Filling a decode step up to the rows of a recorded graph changes neither its results nor its pages. On the CPU the
filled step is computed eagerly; recording and replaying need a CUDA device."""

from __future__ import annotations

import pytest
import torch

from deserve_models import ModelFiles
from deserve_network.ring_messages import Chunk
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.batch import pack
from deserve_node.engine.decode_buffers import DecodeBuffers, bucket, is_decode
from deserve_node.engine.forward import forward
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")


@pytest.mark.parametrize(("rows", "expected"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (200, 256)])
def test_buckets_are_multiples_that_hold_the_rows(rows: int, expected: int) -> None:
    assert bucket(rows) == expected


def test_only_steps_of_one_token_a_row_that_are_all_or_none_wanted_are_decodes() -> None:
    assert is_decode([Chunk(0, 4, 1, 1), Chunk(1, 9, 1, 1)])
    assert is_decode([Chunk(0, 4, 1, 0)])
    assert not is_decode([Chunk(0, 4, 1, 1), Chunk(1, 9, 2, 1)])
    assert not is_decode([Chunk(0, 4, 1, 1), Chunk(1, 9, 1, 0)])


def prefilled(files: ModelFiles, layers: tuple[int, int], lengths: list[int]) -> Engine:
    shard = load_shard(files, *layers, dtype=torch.float32, device=CPU)
    engine = Engine(shard, KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=CPU))
    generator = torch.Generator().manual_seed(1)
    for sequence, length in enumerate(lengths):
        states = torch.randn(length, shard.hidden_size, generator=generator)
        chunks = [Chunk(sequence, 0, length, 0)]
        batch = pack(chunks, engine.cache.shapes, engine.cache.place(chunks), CPU)
        with torch.inference_mode():
            forward(shard, engine.cache, batch, states)
    return engine


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_filled_up_step_computes_the_same_bits_and_leaves_the_same_pages(
    tiny_files: ModelFiles, count: int, wanted: bool
) -> None:
    layers = (5, 8) if wanted else (3, 6)
    lengths = [3 + 7 * row for row in range(count)]
    chunks = [Chunk(row, length, 1, int(wanted)) for row, length in enumerate(lengths)]
    inputs = torch.randn(count, 64, generator=torch.Generator().manual_seed(2))
    plain, filled = (prefilled(tiny_files, layers, lengths) for _ in range(2))
    buffers = DecodeBuffers(16, plain.shard.context_length, filled.cache.shapes, CPU, wanted=wanted)
    with torch.inference_mode():
        for _ in range(2):
            batch = pack(chunks, plain.cache.shapes, plain.cache.place(chunks), CPU)
            expected = forward(plain.shard, plain.cache, batch, inputs)
            buffers.fill(pack(chunks, filled.cache.shapes, filled.cache.place(chunks), CPU), inputs)
            found = forward(filled.shard, filled.cache, buffers.batch, buffers.inputs)
            assert torch.equal(found[:count], expected)
            # The next step reads what this one wrote, and replaces what the buffers hold.
            chunks = [Chunk(c.sequence, c.start + 1, 1, c.wanted) for c in chunks]
            inputs = inputs.flip(0)
    for layer in range(*layers):
        for ours, theirs in zip(filled.cache.pages(layer), plain.cache.pages(layer), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_replayed_step_computes_what_an_eager_one_does(tiny_files: ModelFiles) -> None:
    from deserve_node.engine.cuda_graphs import DecodeGraphs

    device = torch.device("cuda")
    shard = load_shard(tiny_files, 0, 5, dtype=torch.float32, device=device)
    cache = KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=device)
    graphs = DecodeGraphs(shard, cache)
    with torch.inference_mode():
        for position in range(40):
            chunks = [Chunk(row, position, 1, 0) for row in range(7)]
            batch = pack(chunks, cache.shapes, cache.place(chunks), device)
            ids = torch.arange(7, device=device) + position
            found = graphs.run(chunks, batch, ids).clone()
            torch.testing.assert_close(found, forward(shard, cache, batch, ids), rtol=1e-4, atol=1e-4)
