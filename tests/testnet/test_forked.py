"""Forked children are processes like any other: own output, exit code, group, name; and they end with the template."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from deserve_testnet import forked
from deserve_testnet.processes import Processes

pytestmark = pytest.mark.skipif(not forked.CAN_FORK, reason="children are forked on Linux only")


def coordinator(data: Path) -> list[str]:
    """One that runs until it is told to end, on a free port; it prints its readiness line."""
    addresses = ("--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0")
    return ["coordinator", "start", "--model", "demo", "--data", str(data), *addresses, "--json"]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_a_child_has_its_own_output_code_group_and_name(tmp_path):
    async with Processes(tmp_path) as processes:
        refused = await processes.fork("refused", ["coordinator", "start", "--model", "demo", "--http", "nowhere"])
        child = await processes.fork("child", coordinator(tmp_path / "data"))
        assert (await child.first_line(120))["base_url"].startswith("http://127.0.0.1:")
        assert os.getpgid(child.pid) == child.pid
        assert f"--data {tmp_path / 'data'}" in command_of(child.pid)
        assert len(os.listdir(f"/proc/{child.pid}/task")) > 1
        assert await refused.wait() == 2
        assert "Missing option '--data'" in refused.tail()
    assert child.exit_code in (0, 130, -signal.SIGTERM)


async def test_children_end_with_the_template_and_the_next_one_gets_a_new_one(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.fork("child", coordinator(tmp_path / "data"))
        await child.first_line(120)
        child.ended_by_us = True
        forked._templates[-1].process.kill()
        assert await asyncio.wait_for(child.wait(), 20) == -signal.SIGKILL
        again = await processes.fork("again", ["--version"])
        assert await again.wait() == 0
