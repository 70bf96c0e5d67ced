"""The benchmark of the head's event loop, at a size that takes seconds: that it still drives the head as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAD = Path(__file__).with_name("head.py")


def test_a_small_ring_behind_the_real_head_is_timed() -> None:
    sizes = ["--microbatches", "4", "--rows", "4", "--steps", "40"]
    done = subprocess.run([sys.executable, HEAD, *sizes, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["best_ms_per_step"] <= found["ms_per_step"]
