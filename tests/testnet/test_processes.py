"""Children of the testnet: readiness lines, early deaths with their log, and an end in every case."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deserve_testnet.errors import ProcessDied, TestnetError
from deserve_testnet.processes import Processes

READY_THEN_WAIT = "import signal; print('{\"ready\": true}', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + READY_THEN_WAIT


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_process_is_ready_when_it_prints_its_line(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.spawn("child", python(READY_THEN_WAIT))
        assert await child.first_line(10) == {"ready": True}
        assert is_alive(child.pid)
    assert child.exit_code == -signal.SIGTERM


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.spawn("child", python(DEAF))
        await child.first_line(10)
        await child.stop(grace_s=0.05)
    assert child.exit_code == -signal.SIGKILL


async def test_an_early_death_shows_the_end_of_the_log(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.spawn("node-1", python("import sys; sys.exit('no such model: nonsense')"))
        with pytest.raises(ProcessDied, match=r"node-1 ended with exit code 1(?s:.*)no such model: nonsense"):
            await child.first_line(10)


@pytest.mark.parametrize(("code", "ours"), [(1, 1), (2, 2), (4, 4), (130, 1)])
async def test_flags_and_network_that_a_child_refuses_are_ours(tmp_path, code, ours):
    async with Processes(tmp_path) as processes:
        child = await processes.spawn("node-1", python(f"raise SystemExit({code})"))
        with pytest.raises(ProcessDied) as died:
            await child.first_line(10)
    assert died.value.exit_code == ours


async def test_a_line_that_is_not_json_is_refused(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.spawn("child", python("print('hello')"))
        with pytest.raises(TestnetError, match="instead of its readiness line"):
            await child.first_line(10)


async def test_watch_tells_of_a_later_death_but_not_of_one_we_asked_for(tmp_path):
    async with Processes(tmp_path) as processes:
        asked = await processes.spawn("asked", python(READY_THEN_WAIT))
        other = await processes.spawn("other", python(READY_THEN_WAIT))
        await asked.first_line(10)
        await other.first_line(10)
        await asked.kill()
        other.signal(signal.SIGKILL)
        with pytest.raises(ProcessDied, match="other ended with exit code -9"):
            await asyncio.wait_for(processes.watch(), 10)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_children_die_with_a_parent_that_is_killed(tmp_path):
    code = f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        from deserve_testnet.processes import Processes

        async def main():
            async with Processes(Path({str(tmp_path)!r})) as processes:
                child = await processes.spawn("child", [sys.executable, "-S", "-c", {DEAF!r}])
                await child.first_line(10)
                print(child.pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
    )
    output, _ = parent.communicate(timeout=30)
    child = int(output)
    if is_alive(child):  # the signal is on its way
        descriptor = os.pidfd_open(child)
        try:
            assert select.select([descriptor], [], [], 10)[0]
        finally:
            os.close(descriptor)
    assert not is_alive(child)
