"""Replace this process by a command that cannot outlive its parent: `python launch.py PARENT_PID COMMAND...`.

A separate program, because doing this between fork and exec of a process with threads can deadlock. Linux kills the
command when the parent's thread ends, for whatever reason; elsewhere the parent's own clean-up has to suffice.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
