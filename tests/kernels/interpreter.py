"""Tests that need Triton's interpreter. Triton chooses it when it is first imported, so they run in a process of their
own, which `test_triton_interpreter` starts."""

from __future__ import annotations

import importlib.util
import os

import pytest

INSTALLED = importlib.util.find_spec("triton") is not None
CHOSEN = os.environ.get("TRITON_INTERPRET") == "1"

triton_interpreter = pytest.mark.skipif(
    not (INSTALLED and CHOSEN), reason="runs in the process that test_triton_interpreter starts"
)
