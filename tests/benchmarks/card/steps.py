"""Decode and prefill steps of the engine, all layers in this process, against the roofline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from card.roofline import Peaks, Shape, decode_work, prefill_work
from deserve_models import inspect, resolve
from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.engine.interface import StageEngine
from deserve_node.kv_limits import KvLimits
from deserve_node.loaded_stage import load_stage

__all__ = ["Measured", "load_engine", "measure_decode", "measure_prefill"]

_WARM = 4
_CHUNK = 2_048


@dataclass(frozen=True)
class Measured:
    """One kind of step: tokens a second, its time, and the share of the roofline that it reaches."""

    what: str
    tokens_per_s: float
    step_ms: float
    roofline_share: float


def load_engine(directory: Path, *, device: torch.device, dtype: str, memory_bytes: int) -> StageEngine:
    files = resolve(str(directory))
    layers = inspect(files).num_layers
    loaded = load_stage(files, 0, layers, dtype=dtype, device=device, memory_bytes=memory_bytes, kv=KvLimits())
    return loaded.engine


def measure_prefill(engine: StageEngine, shape: Shape, peaks: Peaks, *, tokens: int, sequence: int = 0) -> Measured:
    """One prompt of `tokens` tokens, in chunks as the head would cut it."""
    _prefill(engine, sequence, tokens)  # warm: kernels are compiled for its shapes
    engine.release([sequence])
    _settle(engine)
    started = time.perf_counter()
    _prefill(engine, sequence, tokens)
    _settle(engine)
    seconds = time.perf_counter() - started
    engine.release([sequence])
    least = sum(peaks.least_s(prefill_work(shape, start, count)) for start, count in _chunks(tokens))
    return Measured(f"prefill {tokens}", tokens / seconds, seconds * 1e3, least / seconds)


def measure_decode(
    engine: StageEngine, shape: Shape, peaks: Peaks, *, rows: int, context: int, steps: int = 32
) -> Measured:
    """`rows` rows decode from `context` tokens on, `steps` steps after a few that warm up."""
    for row in range(rows):
        _prefill(engine, row, context)
    inputs = torch.ones(rows, dtype=torch.int64)

    def step(number: int) -> None:
        engine.run([Chunk(row, context + number, 1, 1) for row in range(rows)], inputs)

    for number in range(_WARM):
        step(number)
    _settle(engine)
    started = time.perf_counter()
    for number in range(_WARM, _WARM + steps):
        step(number)
    _settle(engine)
    step_s = (time.perf_counter() - started) / steps
    engine.release(list(range(rows)))
    mean = context + _WARM + steps // 2
    least = peaks.least_s(decode_work(shape, [mean] * rows))
    return Measured(f"decode {rows} x {context}", rows / step_s, step_s * 1e3, least / step_s)


def _prefill(engine: StageEngine, sequence: int, tokens: int) -> None:
    prompt = tuple(1 + place % 250 for place in range(tokens))
    engine.admit(Admit("card", 0, sequence, Sampling(), prompt))
    for start, count in _chunks(tokens):
        wanted = int(start + count == tokens)
        inputs = torch.tensor(prompt[start : start + count], dtype=torch.int64)
        engine.run([Chunk(sequence, start, count, wanted)], inputs)


def _chunks(tokens: int) -> Iterator[tuple[int, int]]:
    for start in range(0, tokens, _CHUNK):
        yield start, min(_CHUNK, tokens - start)


def _settle(engine: StageEngine) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
