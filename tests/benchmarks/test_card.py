"""The GPU benchmark's arithmetic, and its code on a CPU with a model of a few kilobytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card.peaks import measure_peaks
from card.random_llama import make_random_llama
from card.roofline import LLAMA_3_8B, Peaks, Shape, Work, decode_work, prefill_work
from card.steps import load_engine, measure_decode, measure_prefill

TINY = Shape(2, 64, 96, 4, 2, 16, 256)
CPU = torch.device("cpu")
GPU = Path(__file__).with_name("gpu.py")


def test_llama_3_has_eight_billion_weights():
    edges = 2 * LLAMA_3_8B.hidden * LLAMA_3_8B.vocabulary
    norms = (2 * LLAMA_3_8B.layers + 1) * LLAMA_3_8B.hidden
    assert LLAMA_3_8B.layers * LLAMA_3_8B.layer_weights + edges + norms == 8_030_261_248
    assert LLAMA_3_8B.kv_token_bytes == 131_072


def test_a_decode_reads_the_weights_once_and_every_rows_context():
    one, two = decode_work(LLAMA_3_8B, [1000]), decode_work(LLAMA_3_8B, [1000, 1000])
    row = 1001 * LLAMA_3_8B.kv_token_bytes + LLAMA_3_8B.hidden * 2
    assert two.bytes - one.bytes == row
    assert two.operations == 2 * one.operations


def test_a_prefill_in_chunks_attends_to_the_same_pairs():
    whole = prefill_work(TINY, 0, 100)
    first, second = prefill_work(TINY, 0, 60), prefill_work(TINY, 60, 40)
    one_more_head = 2 * TINY.hidden * TINY.vocabulary  # each chunk counts one row of logits
    assert first.operations + second.operations == whole.operations + one_more_head


def test_a_prefill_of_one_token_is_a_decode():
    assert prefill_work(TINY, 41, 1) == decode_work(TINY, [42])


def test_the_roofline_is_the_longer_of_moving_and_computing():
    peaks = Peaks(bytes_per_s=100.0, operations_per_s=1000.0)
    assert peaks.least_s(Work(200, 1000)) == 2.0
    assert peaks.least_s(Work(200, 3000)) == 3.0


def test_peaks_are_measured():
    peaks = measure_peaks(CPU, torch.float32, copied=1 << 20, side=64)
    assert 0 < peaks.bytes_per_s < 1e13
    assert 0 < peaks.operations_per_s < 1e15


def test_a_random_checkpoint_loads_and_its_steps_are_measured(tmp_path):
    shape = Shape(2, 64, 96, 4, 2, 16, 256, value_bytes=4)
    directory = make_random_llama(tmp_path / "llama", shape, device=CPU, dtype=torch.float32)
    engine = load_engine(directory, device=CPU, dtype="float32", memory_bytes=64 << 20)
    peaks = Peaks(1e11, 1e12)
    prefill = measure_prefill(engine, shape, peaks, tokens=40)
    decode = measure_decode(engine, shape, peaks, rows=3, context=20, steps=2)
    assert (prefill.what, decode.what) == ("prefill 40", "decode 3 x 20")
    assert 0 < prefill.roofline_share < 1
    assert 0 < decode.roofline_share < 1
    assert engine.cache.pages_used == 0


@pytest.mark.parametrize(
    ("arguments", "error"), [(("--parts", "steps,rosw"), "--parts: rosw"), (("--rounds", "0"), "--rounds: at least 1")]
)
def test_a_wrong_argument_is_named_before_anything_is_measured(arguments, error):
    wrong = subprocess.run([sys.executable, GPU, *arguments], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert error in wrong.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_the_command_says_so():
    done = subprocess.run([sys.executable, GPU], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
