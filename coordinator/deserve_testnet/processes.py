"""The testnet's processes: started with a log each, awaited by their readiness line, ended with us in every case.

A process gets its own session, so that Ctrl-C in a terminal reaches only us, and dies with us even when we are killed
(see `launch`). What a process prints on stderr, and on stdout after its first line, goes to its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deserve_testnet import launch
from deserve_testnet.errors import ProcessDied, TestnetError, UsageError
from deserve_testnet.forked import ForkedChild, fork

__all__ = ["Process", "Processes"]

_TERMINATION_GRACE_S = 5.0
_NETWORK_EXIT_CODE = 4
_TAIL_LINES = 15
_TAIL_BYTES = 8192


class Process:
    """One running child; made by `Processes`. `ready` is what it printed when it was ready, empty before."""

    def __init__(self, name: str, child: asyncio.subprocess.Process | ForkedChild, log: Path) -> None:
        self.name = name
        self.log = log
        self.ready: dict[str, Any] = {}
        self.ended_by_us = False
        self._child = child
        self._drain: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.returncode

    async def first_line(self, deadline_s: float) -> dict[str, Any]:
        """The JSON object that the process prints when it is ready.

        Raises ProcessDied if it ends before, TestnetError if it is silent for `deadline_s` or prints something else.
        """
        assert self._child.stdout is not None
        try:
            line = await asyncio.wait_for(self._child.stdout.readline(), deadline_s)
        except TimeoutError:
            raise TestnetError(f"{self.name} was not ready after {deadline_s:.0f} s{self.tail()}") from None
        self._drain = asyncio.create_task(self._drain_stdout(), name=f"{self.name} stdout")
        if not line:
            await self._child.wait()
            raise self.death()
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise TestnetError(f"{self.name} printed {line[:200]!r} instead of its readiness line{self.tail()}")
        self.ready = value
        return value

    async def wait(self) -> int:
        return await self._child.wait()

    def death(self) -> ProcessDied:
        """The error that says so. Where a child blames its flags or the network, so do we: both are ours too."""
        killed = " (killed: is the machine out of memory? --memory bounds each node)" if self.exit_code == -9 else ""
        error = ProcessDied(f"{self.name} ended with exit code {self.exit_code}{killed}{self.tail()}")
        if self.exit_code in (UsageError.exit_code, _NETWORK_EXIT_CODE):
            error.exit_code = self.exit_code
        return error

    def tail(self) -> str:
        """The last lines of the log, ready to be appended to a message."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
            if lines:
                return "; the end of its log:\n" + "\n".join(f"    {line}" for line in lines)
        return ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children; a process that has ended is left alone."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, grace_s: float = _TERMINATION_GRACE_S) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns when the process is gone."""
        self.ended_by_us = True
        try:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), grace_s)
        finally:
            self.signal(signal.SIGKILL)
        await self._child.wait()
        if self._drain is not None:
            await self._drain

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self.stop(grace_s=0)

    async def _drain_stdout(self) -> None:
        assert self._child.stdout is not None
        with self.log.open("ab") as file:
            while chunk := await self._child.stdout.read(65536):
                file.write(chunk)


class Processes:
    """All children of one testnet; leaving the context ends them, last started first."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._running: list[Process] = []
        self._ends: list[asyncio.Task[None]] = []
        self._first_death: asyncio.Future[Process] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Those that others depend on go last: nodes, then the coordinator, then the emulator.
        try:
            by_role: dict[str, list[Process]] = {}
            for process in reversed(self._running):
                by_role.setdefault(process.name.split("-")[0], []).append(process)
            for group in by_role.values():
                await asyncio.gather(*(process.stop() for process in group))
            await asyncio.gather(*self._ends)
        finally:
            for process in self._running:
                process.signal(signal.SIGKILL)

    async def spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start a command with `environment` on top of ours; its log is `name`.log in the log directory."""
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as errors:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-E", launch.__file__, str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        return self._keep(name, child, log)

    async def fork(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """The same for `deserve ARGUMENTS`, forked from the template: sooner, and with less memory of its own."""
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as errors:
            child = await fork(arguments, {**os.environ, **(environment or {})}, errors.fileno())
        return self._keep(name, child, log)

    def _keep(self, name: str, child: asyncio.subprocess.Process | ForkedChild, log: Path) -> Process:
        process = Process(name, child, log)
        self._running.append(process)
        self._ends.append(asyncio.create_task(self._note_end(process), name=f"{name} end"))
        return process

    async def watch(self) -> None:
        """Wait for a process to end that nobody told to. Raises ProcessDied; never returns otherwise."""
        # Shielded: a watch that is cancelled leaves the future to the next one.
        died = await asyncio.shield(self._first_death)
        raise died.death()

    async def _note_end(self, process: Process) -> None:
        await process.wait()
        if not process.ended_by_us and not self._first_death.done():
            self._first_death.set_result(process)
