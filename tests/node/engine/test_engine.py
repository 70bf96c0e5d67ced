"""What the engine leaves to others: hidden states on the device that computed them, and decodes to the graphs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch

from deserve_models import ModelFiles
from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.batch import PackedBatch
from deserve_node.engine.forward import forward
from deserve_node.ring.payload import pack_payload
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")


def engine_of(files: ModelFiles, first: int, last: int, device: torch.device = CPU) -> Engine:
    shard = load_shard(files, first, last, dtype=torch.float32, device=device)
    return Engine(shard, KvCache(shard.kv_layers, kv_bytes=8 << 20, dtype=torch.float32, device=device))


def test_hidden_states_are_handed_out_where_they_were_computed(tiny_files: ModelFiles) -> None:
    engine = engine_of(tiny_files, 3, 5)
    elsewhere = torch.empty(4, 64, device="meta")  # torch refuses to copy from there
    engine._forward = lambda chunks, inputs, tables: elsewhere  # type: ignore[method-assign]
    assert engine.run([Chunk(0, 0, 4, 0)], torch.zeros(4, 64)).hidden is elsewhere


class Graphs:
    """Replays decodes, and notes of how many rows; computes them eagerly, as a device without graphs would."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.replayed: list[int] = []

    def take(self, chunks: Sequence[Chunk]) -> bool:
        return all(chunk.count == 1 for chunk in chunks)

    def run(self, chunks: Sequence[Chunk], batch: PackedBatch, inputs: torch.Tensor) -> torch.Tensor:
        assert len(chunks) == batch.tokens == len(inputs)
        self.replayed.append(len(chunks))
        return forward(self._engine.shard, self._engine.cache, batch, inputs)


@pytest.mark.parametrize("layers", [(0, 3), (5, 8)])
def test_decodes_that_a_graph_replays_are_not_cut_and_other_steps_are(
    tiny_files: ModelFiles, layers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, prompt = 64, 32
    engine, plain = engine_of(tiny_files, *layers), engine_of(tiny_files, *layers)
    engine.parts = 2
    graphs = Graphs(engine)
    engine._graphs = graphs  # type: ignore[assignment]
    eager: list[int] = []

    def counted(shard, cache, batch, inputs):  # type: ignore[no-untyped-def]
        eager.append(batch.tokens)
        return forward(shard, cache, batch, inputs)

    monkeypatch.setattr("deserve_node.engine.engine.forward", counted)
    wanted = int(engine.shard.is_tail)
    steps = [[Chunk(row, start, 1, wanted) for row in range(rows)] for start in range(2)]
    steps.append([*(Chunk(row, 2, 1, wanted) for row in range(rows)), Chunk(rows, 0, prompt, 0)])
    for chunks in steps:
        tokens = sum(chunk.count for chunk in chunks)
        states = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(len(chunks)))
        inputs = torch.arange(tokens) if engine.shard.is_head else states
        for one in (engine, plain):
            for row in range(rows + 1) if one.shard.is_tail else ():
                if not one.knows(row):
                    one.admit(Admit("r", 0, row, Sampling(), (1,)))
        eager.clear()
        found = engine.run(chunks, inputs)
        assert eager == ([] if len(chunks) == rows else [rows // 2 + prompt // 2, rows // 2 + prompt // 2])
        expected = plain.run(chunks, inputs)
        assert found.drawn == expected.drawn
        if found.hidden is not None:
            assert torch.equal(found.hidden, expected.hidden)
    assert graphs.replayed == [rows, rows]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
async def test_a_device_gets_the_next_step_while_it_is_busy_and_packs_what_it_computed(tiny_files: ModelFiles) -> None:
    from deserve_kernels.codecs import CODECS
    from deserve_network.ring_messages import Segment

    device = torch.device("cuda")
    engine = engine_of(tiny_files, 3, 5, device)
    states = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    engine.run([Chunk(9, 0, 24, 0)], states).span.wait()  # type: ignore[union-attr]
    torch.cuda._sleep(1_000_000_000)  # a step of some tenths of a second
    started = time.perf_counter()
    outputs = [engine.run([Chunk(sequence, 0, 24, 0)], states) for sequence in range(2)]
    assert not torch.cuda.current_stream(device).query()
    seconds = [output.span.wait() for output in outputs]  # type: ignore[union-attr]
    assert 0 < sum(seconds) <= time.perf_counter() - started
    hidden = outputs[1].hidden
    assert hidden is not None
    assert hidden.device.type == "cuda"
    segments = (Segment("int8", 10), Segment("raw", 6), Segment("bf16", 8))
    parts = hidden.cpu().split([segment.tokens for segment in segments])
    expected = [bytes(CODECS[segment.codec].encode(part)) for segment, part in zip(segments, parts, strict=True)]
    assert [bytes(buffer) for buffer in await pack_payload(hidden, segments)] == expected
