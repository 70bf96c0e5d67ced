"""Blocks that are allocated and freed again and again, on a thread other than the first, as a stage's steps do."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKS = """
import resource, sys, threading
import numpy as np
from deserve_node.heap import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    for block in [np.empty(40 << 20, np.uint8) for _ in range(2)]:
        block[::4096] = 1

def work():
    step()
    before = faults()
    for _ in range(5):
        step()
    print(faults() - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted and memory is kept on Linux with glibc")
def test_a_step_gets_the_memory_of_the_step_before() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", BLOCKS, how], check=True, capture_output=True).stdout)
        for how in ("kept", "as usual")
    }
    assert faults["kept"] < 2_000
    assert faults["as usual"] > 10 * faults["kept"]
