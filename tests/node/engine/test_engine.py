"""Which steps the engine leaves to the graphs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from deserve_models import ModelFiles
from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.engine import Engine, KvCache
from deserve_node.engine.batch import PackedBatch
from deserve_node.engine.forward import forward
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")


def engine_of(files: ModelFiles, first: int, last: int, device: torch.device = CPU) -> Engine:
    shard = load_shard(files, first, last, dtype=torch.float32, device=device)
    return Engine(shard, KvCache(shard.kv_layers, kv_bytes=8 << 20, dtype=torch.float32, device=device))


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
