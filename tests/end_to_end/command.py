"""Runs the `deserve` command as a person would: a real process, its exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND_DEADLINE_S = 240
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        str(Path(__file__).parents[2] / root) for root in ("kernels", "ledger", "node", "coordinator")
    ),
}


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object that the command printed."""
        (line,) = self.stdout.splitlines()
        report: dict[str, Any] = json.loads(line)
        return report


def deserve(*arguments: object, environment: dict[str, str] | None = None) -> Outcome:
    """Run `deserve ARGUMENTS` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "deserve_client.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_DEADLINE_S,
        env={**ENVIRONMENT, **(environment or {})},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class Running:
    """A `deserve` command that stays, its stderr in `log`; with `until_ready`, `ready` is its readiness line."""

    def __init__(self, arguments: Sequence[object], log: Path, *, until_ready: bool = True) -> None:
        self.log = log
        self.ready: dict[str, Any] = {}
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deserve_client.main", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=ENVIRONMENT,
            )
        if until_ready:
            self._await_ready(arguments)

    def _await_ready(self, arguments: Sequence[object]) -> None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], COMMAND_DEADLINE_S)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            pytest.fail(f"{arguments} did not get ready:\n{self.log.read_text()}")
        self.ready = json.loads(line)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(COMMAND_DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


def processes_naming(text: str) -> list[int]:
    """Process ids whose command line holds `text`, this process apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Wait for something that only polling can tell."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.02)
