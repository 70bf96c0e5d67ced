"""Which steps graphs take, and who owns what they compute. Most graphs here compute eagerly on the CPU; recording needs
a CUDA device."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from deserve_models import ModelFiles
from deserve_network.ring_messages import Chunk
from deserve_node.engine import KvCache
from deserve_node.engine.batch import pack
from deserve_node.engine.cuda_graphs import MOST_ROWS, DecodeGraphs, _Recorded
from deserve_node.engine.decode_buffers import DecodeBuffers
from deserve_node.engine.forward import forward
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")
ROWS = 7


class EagerGraph:
    """Computes what is in the buffers, into the same memory each time."""

    def __init__(self, graphs: DecodeGraphs, buffers: DecodeBuffers) -> None:
        self._graphs = graphs
        self._buffers = buffers
        self.outputs = torch.full((buffers.rows, graphs._shard.hidden_size), torch.nan)
        if len(buffers.batch.wanted):
            self.outputs = torch.full((buffers.rows, graphs._shard.vocab_size), torch.nan)

    def replay(self) -> None:
        assert self._buffers.inputs is not None
        self.outputs[:] = forward(self._graphs._shard, self._graphs._cache, self._buffers.batch, self._buffers.inputs)


def graphs_of(files: ModelFiles, layers: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> DecodeGraphs:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    shard = load_shard(files, *layers, dtype=torch.float32, device=CPU)
    return DecodeGraphs(shard, KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=CPU))


def decodes(rows: int, wanted: int = 0, start: int = 0) -> list[Chunk]:
    return [Chunk(row, start, 1, wanted) for row in range(rows)]


def test_decodes_are_taken_unless_they_are_too_many_or_known_to_be_slower(
    tiny_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = graphs_of(tiny_files, (5, 8), monkeypatch)
    assert graphs.take(decodes(MOST_ROWS, 1))
    assert not graphs.take(decodes(MOST_ROWS + 1, 1))
    assert not graphs.take([*decodes(3), Chunk(3, 0, 2, 0)])
    graphs._recorded[16, True] = None
    assert not graphs.take(decodes(ROWS, 1))
    assert graphs.take(decodes(ROWS, 0))
    assert graphs.take(decodes(17, 1))


@pytest.mark.parametrize("layers", [(3, 6), (5, 8)], ids=["middle", "tail"])
def test_replayed_steps_compute_what_eager_ones_do_and_leave_earlier_hidden_states_alone(
    tiny_files: ModelFiles, layers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, alone = (graphs_of(tiny_files, layers, monkeypatch) for _ in range(2))
    shard, cache = graphs._shard, graphs._cache
    wanted = int(shard.is_tail)
    buffers = DecodeBuffers(16, shard.context_length, cache.shapes, CPU, wanted=bool(wanted))
    graph = EagerGraph(graphs, buffers)
    graphs._recorded[16, bool(wanted)] = _Recorded(buffers, graph, graph.outputs)  # type: ignore[arg-type]
    found, expected = [], []
    with torch.inference_mode():
        for position in range(3):
            chunks = decodes(ROWS, wanted, position)
            states = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(position))
            outputs = graphs.run(chunks, pack(chunks, cache.shapes, cache.place(chunks), CPU), states)
            batch = pack(chunks, cache.shapes, alone._cache.place(chunks), CPU)
            expected.append(forward(alone._shard, alone._cache, batch, states))
            assert torch.equal(outputs, expected[-1])
            found.append(outputs)
    # Logits are read before the next step is queued, and would be large to copy.
    if not shard.is_tail:
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_other_threads_do_meanwhile_spoils_no_recording(
    tiny_files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cuda")
    shard = load_shard(tiny_files, 0, 5, dtype=torch.float32, device=device)
    cache = KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=device)
    graphs = DecodeGraphs(shard, cache)
    enough, copied = threading.Event(), threading.Event()

    def copy() -> None:
        stream = torch.cuda.Stream(device)
        size = 0
        while not enough.is_set():
            size += 1 << 12  # another size each time, so that memory is pinned anew
            with torch.cuda.stream(stream):
                torch.empty(size, dtype=torch.uint8).pin_memory().to(device, non_blocking=True)
                event = torch.cuda.Event()
                event.record(stream)
            event.synchronize()
            copied.set()

    lane = threading.Thread(target=copy)
    lane.start()
    try:
        assert copied.wait(60)
        with caplog.at_level(logging.WARNING), torch.inference_mode():
            for rows in (7, 20, 40, 60):
                chunks = decodes(rows)
                batch = pack(chunks, cache.shapes, cache.place(chunks), device)
                graphs.run(chunks, batch, torch.arange(rows))
                for row in range(rows):
                    cache.release(row)
    finally:
        enough.set()
        lane.join()
    assert "without a CUDA graph" not in caplog.text
    torch.cuda.synchronize(device)
