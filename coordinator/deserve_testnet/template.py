"""A process that has imported what coordinators and nodes need, and forks them: `python -m … SOCKET`.

Importing torch, transformers and libp2p takes 7 s of processor time, which N processes of one machine would each spend
on the same thing. A forked child runs the command that it would have been started with, from its first line on; it has
its own memory, process group, environment and files, and ends with the template. Nothing here starts a thread: what is
forked has only the one that asked for it.

Each connection asks for one child: a JSON line {"arguments": [...], "environment": {...}} with the descriptors of its
stdout and stderr. The answers are {"pid": n} and, when the child has ended, {"code": n} (negative: the signal).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

from setproctitle import setproctitle

__all__ = ["main"]

_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IMPORTS = (
    "deserve_client.main",
    "deserve_coordinator.commands",
    "deserve_coordinator.row_check",
    "deserve_coordinator.server",
    "deserve_network.carrier",
    "deserve_node.commands",
    "deserve_node.loaded_stage",
    "deserve_node.start",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)


class _Forked(BaseException):
    """In the child: unwinds to the top, where the command begins."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments


class _Template:
    def __init__(self, listening: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = listening
        self._waiting: dict[int, socket.socket] = {}
        """Who asked for each living child."""
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._sockets = (listening, self._wake, wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake.fileno())
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until killed; in a child, raises `_Forked`."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake:
                    self._reap()
                else:
                    self._accept()

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        request, descriptors, _, _ = socket.recv_fds(connection, _READ_BYTES, 2)
        while not request.endswith(b"\n"):
            request += connection.recv(_READ_BYTES)
        asked = json.loads(request)
        pid = os.fork()
        if pid == 0:
            connection.close()
            self._become(asked["environment"], descriptors)
            raise _Forked(asked["arguments"])
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # both sides, so that neither has to wait for the other
        for descriptor in descriptors:
            os.close(descriptor)
        self._waiting[pid] = connection
        _answer(connection, pid=pid)

    def _become(self, environment: dict[str, str], descriptors: list[int]) -> None:
        parent = os.getppid()
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for held in (*self._sockets, *self._waiting.values()):
            held.close()
        for target, descriptor in zip((1, 2), descriptors, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                with self._waiting.pop(pid) as connection:
                    _answer(connection, code=os.waitstatus_to_exitcode(status))


def _answer(connection: socket.socket, **fields: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody wants to know any more
        connection.sendall(json.dumps(fields).encode() + b"\n")


def main() -> None:
    """Import, listen, fork. In a child, run the command as `deserve` would."""
    (path,) = sys.argv[1:]
    setproctitle("deserve testnet template")  # the first call has to find the environment as it was at the start
    for module in _IMPORTS:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page that holds an object
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(64)
    print("ready", flush=True)
    try:
        _Template(listening).serve()
    except _Forked as forked:
        sys.argv = ["deserve", *forked.arguments]
        setproctitle(" ".join(sys.argv))
        _run(forked.arguments)


def _run(arguments: list[str]) -> NoReturn:
    """The command, and the end of this process without taking the libraries apart again: that takes them seconds."""
    from deserve_client.main import main as deserve

    code: object = 1
    try:
        deserve(arguments)
    except SystemExit as ended:
        code = ended.code
    except Exception:
        logging.getLogger(__name__).exception("the command failed")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    main()
