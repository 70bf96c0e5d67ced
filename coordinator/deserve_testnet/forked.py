"""Children forked from a template instead of started from nothing; see `template`, the program at the other end.

One template serves all testnets of this process. It is started with the first child and dies with us.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from deserve_testnet import launch
from deserve_testnet.errors import TestnetError

__all__ = ["CAN_FORK", "ForkedChild", "fork"]

CAN_FORK = sys.platform == "linux"
"""Elsewhere a fork without an exec is not safe with the libraries that a node has loaded."""
_PIPE_GRACE_S = 1.0


class ForkedChild:
    """Like `asyncio.subprocess.Process`, as far as a testnet needs it. `stdout` is a pipe."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, end: asyncio.Task[int]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._end = end

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._end.result() if self._end.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._end)


async def fork(arguments: Sequence[str], environment: Mapping[str, str], errors: int) -> ForkedChild:
    """Start `deserve ARGUMENTS` with this whole environment; `errors` is the descriptor of its stderr.

    The first one waits for the template. Raises TestnetError where that cannot run.
    """
    template = _template()
    await asyncio.to_thread(template.until_ready)
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX)
    ours, theirs = os.pipe()
    try:
        connection.connect(template.address)
        request = json.dumps({"arguments": list(arguments), "environment": dict(environment)})
        socket.send_fds(connection, [request.encode() + b"\n"], [theirs, errors])
    finally:
        os.close(theirs)
    answers, writer = await asyncio.open_unix_connection(sock=connection)
    pipe = _Pipe(loop)
    transport, _ = await loop.connect_read_pipe(lambda: pipe, os.fdopen(ours, "rb", 0))
    started = json.loads(await answers.readline() or b"{}")
    if "pid" not in started:
        raise TestnetError("the process that nodes are forked from has ended")

    async def end() -> int:
        try:
            ended = json.loads(await answers.readline() or b"{}")
            # What it printed last may still be in the pipe; a pipe that nobody reads is not waited for.
            await asyncio.wait([pipe.closed], timeout=_PIPE_GRACE_S)
            return int(ended.get("code", -signal.SIGKILL))  # a template that is killed takes its children along
        finally:
            transport.close()
            writer.close()

    return ForkedChild(started["pid"], pipe.reader, asyncio.create_task(end(), name=f"end of {started['pid']}"))


class _Pipe(asyncio.StreamReaderProtocol):
    """The reading end of a child's stdout; `closed` is done with its last byte."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reader = asyncio.StreamReader()
        self.closed: asyncio.Future[None] = loop.create_future()
        super().__init__(self.reader)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)


class _Template:
    """The process and the socket at which it is asked for children."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="deserve-template-")
        self.address = str(Path(self._directory) / "socket")
        self._lock = threading.Lock()
        self._ready = False
        self._log = Path(self._directory) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", launch.__file__, str(os.getpid())),
                    *(sys.executable, "-m", "deserve_testnet.template", self.address),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                # Libraries that start threads when they are loaded would have none left in a child.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def until_ready(self) -> None:
        """Blocks while it imports. Raises TestnetError with what it said if it cannot."""
        assert self.process.stdout is not None
        with self._lock:
            self._ready = self._ready or bool(self.process.stdout.readline())
            if not self._ready:
                raise TestnetError(f"nodes cannot be prepared: {self._log.read_text(errors='replace')[-2000:]}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)


_templates: list[_Template] = []


def _template() -> _Template:
    if _templates and _templates[-1].process.poll() is not None:
        _templates.pop().end()
    if not _templates:
        _templates.append(_Template())
        atexit.register(_end_all)
    return _templates[-1]


def _end_all() -> None:
    while _templates:
        _templates.pop().end()
