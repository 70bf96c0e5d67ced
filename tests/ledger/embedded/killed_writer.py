"""Run as a script by test_kill: writes a call into a journal and is killed at every single line on the way.

For step k of the lines that `append` and `signed_head` run through, a child opens a fresh journal, acknowledges
on a pipe what it has written, and sends itself SIGKILL before that line. Prints one JSON list: for each k, how many
calls were acknowledged; the last one ran through all lines and was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from journal_parties import open_journal, signed_by
from ledger_parties import KEYS

from deserve_ledger.calls import Deposit
from deserve_ledger.embedded import durable_file, heads, journal, tables, tip

WATCHED = {module.__file__ for module in (journal, tables, heads, durable_file, tip)}
CALL = signed_by(KEYS[0], 0, Deposit(5))


def kill_before(step: int) -> None:
    left = step

    def trace(frame, event, _argument):
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def write(folder: Path, step: int, acknowledge: int) -> None:
    opened = open_journal(folder, snapshot_every=2)
    kill_before(step)
    opened.append(CALL)
    os.write(acknowledge, b".")
    opened.signed_head()


def run(folder: Path, step: int) -> tuple[int, bool]:
    """(calls acknowledged, whether the child was killed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        write(folder, step, writing)
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        acknowledged = len(pipe.read())
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
    return acknowledged, os.WIFSIGNALED(status)


def main() -> None:
    folders = Path(sys.argv[1])
    counts = []
    killed = True
    while killed:
        folder = folders / str(len(counts))
        os.mkdir(folder)
        for part in (folders / "begun").iterdir():
            (folder / part.name).write_bytes(part.read_bytes())
        acknowledged, killed = run(folder, len(counts))
        counts.append(acknowledged)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
