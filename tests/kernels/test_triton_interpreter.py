"""All tests of Triton kernels on CPU tensors, in a process whose Triton interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from interpreter import CHOSEN, INSTALLED


@pytest.mark.skipif(not INSTALLED, reason="triton is not installed (pip install --no-deps triton)")
@pytest.mark.skipif(CHOSEN, reason="this is the process it starts")
def test_interpreted_kernels_agree_with_their_references() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "interpreted",
        Path(__file__).parent,
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout.replace("1 skipped", "", 1), done.stdout
