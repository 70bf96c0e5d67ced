"""Which steps graphs take. Recording needs a CUDA device."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from deserve_models import ModelFiles
from deserve_network.ring_messages import Chunk
from deserve_node.engine import KvCache
from deserve_node.engine.batch import pack
from deserve_node.engine.cuda_graphs import MOST_ROWS, DecodeGraphs
from deserve_node.shard.loading import load_shard

CPU = torch.device("cpu")
ROWS = 7


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
