"""Loading a stage costs little more memory than the stage's own tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROBE = """
import json, sys
import torch, transformers
from deserve_models import resolve
from deserve_node.shard.loading import load_shard

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

directory, warmup, first, last, dtype = sys.argv[1:]
cpu = torch.device("cpu")
load_shard(resolve(warmup), 0, 1, dtype=torch.float32, device=cpu)
bare = peak()
shard = load_shard(resolve(directory), int(first), int(last), dtype=getattr(torch, dtype), device=cpu)
print(json.dumps({"extra": peak() - bare, "tensors": shard.tensor_bytes}))
"""


def measure(*arguments: str) -> float:
    """Peak memory above the process that has loaded another (tiny) model, as a multiple of the stage's tensors."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    ratio: float = result["extra"] / result["tensors"]
    return ratio


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "served", "first", "last"),
    [
        (torch.float32, "float32", 0, 3),
        (torch.bfloat16, "float32", 3, 6),
        (torch.float32, "bfloat16", 0, 3),
    ],
)
def test_peak_memory_is_within_a_fifth_of_the_tensors(
    save_llama: Any, tmp_path: Path, stored: torch.dtype, served: str, first: int, last: int
) -> None:
    warmup = tmp_path / "warmup"
    save_llama()
    warmup.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).rename(warmup / name)
    # Each half holds about 130 MB in float32, two fifths of it an embedding or output head.
    save_llama(
        dtype=stored,
        vocab_size=16384,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        shard_size="100MB",
    )
    ratio = measure(str(tmp_path), str(warmup), str(first), str(last), served)
    if ratio > 1.2:
        # Seen once in many runs on a busy machine, never twice in a row: what a load needs, it needs every time.
        ratio = measure(str(tmp_path), str(warmup), str(first), str(last), served)
    print(f"{stored} as {served}, layers [{first}, {last}): peak {ratio:.3f} of the stage's tensors")
    assert ratio <= 1.2
