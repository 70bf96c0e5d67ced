"""`deserve node` as an operator types it: exit codes, JSON, and every mistake in words."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from deserve_network.control_messages import StageReady, Stats
from deserve_network.errors import AddressError, DialError
from deserve_node import background, start
from deserve_node.commands import node
from deserve_node.errors import NodeError

NOWHERE = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWF4SHn4XFVvsH3TXTVYKqfjCYgAEUYRyAvkJVkY1LXLoH"
DEADLINE_S = 60


def run(*arguments):
    return CliRunner().invoke(node, [str(argument) for argument in arguments])


class Process:
    """`deserve node start` in a process of its own."""

    def __init__(self, data, *arguments):
        roots = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deserve_client.main", "node", "start", "--data", str(data)),
                *("--listen", "/ip4/127.0.0.1/tcp/0", "--device", "cpu", "--threads", "1", "--memory", "32MiB"),
                *map(str, arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    str(roots / root) for root in ("kernels", "ledger", "node", "coordinator")
                ),
            },
        )

    def until_says(self, text):
        """Lines of stderr up to the one that holds `text`."""
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if text in line:
                return "".join(lines)
        pytest.fail(f"never said {text!r}: {''.join(lines)}")

    def end(self, number=signal.SIGTERM):
        """Exit code, and the rest of stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err


def test_init_writes_an_identity_and_a_configuration_that_can_be_read(tmp_path):
    name = 'a "quoted" \\ name'
    done = run("init", "--data", tmp_path / "n", "--coordinator", NOWHERE, "--name", name, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    written = tomllib.loads((tmp_path / "n" / "node.toml").read_text())
    assert (written["coordinator"], written["name"]) == (NOWHERE, name)
    assert said["config"] == str(tmp_path / "n" / "node.toml")
    assert (tmp_path / "n" / "identity.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "n" / "node.toml").stat().st_mode & 0o777 == 0o600


def test_init_again_keeps_what_is_there_and_says_so(tmp_path):
    first = json.loads(run("init", "--data", tmp_path, "--coordinator", NOWHERE, "--json").stdout)
    again = run("init", "--data", tmp_path, "--coordinator", "/other", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout) == {**first, "created": False}
    assert "not written" in again.stderr
    assert NOWHERE in (tmp_path / "node.toml").read_text()


def test_init_where_nothing_can_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("init", "--data", tmp_path / "file" / "below")
    assert done.exit_code == 1
    assert "Error:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "coordinator: none given"),
        (["--coordinator", "localhost"], "coordinator: 'localhost'"),
        (["--coordinator", NOWHERE, "--memory", "a lot"], "--memory: 'a lot'"),
        (["--coordinator", NOWHERE, "--copy-rate", "fast"], "--copy-rate: 'fast'"),
        (["--coordinator", NOWHERE, "--plan", "rows=0"], "plan: rows: must be from 1 to"),
        (["--coordinator", NOWHERE, "--stage-profile", "/none.toml"], "stage_profile: /none.toml"),
        (["--coordinator", NOWHERE, "--http", "nonsense"], "http: 'nonsense'"),
        (["--coordinator", NOWHERE, "--device", "tpu"], "device: 'tpu'"),
        (["--coordinator", NOWHERE, "--model-path", "x"], "model_paths: 'x'"),
        (["--coordinator", NOWHERE, "--listen", "nonsense"], "listen: 'nonsense'"),
        (["--coordinator", NOWHERE, "--threads", "-1"], "--threads"),
    ],
)
def test_a_start_that_cannot_be_meant_is_a_usage_error(arguments, said, tmp_path):
    done = run("start", "--data", tmp_path, *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr


@pytest.mark.parametrize("flag", ["--http", "--listen"])
def test_a_port_in_use_ends_the_start_at_once_naming_it(flag, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = f"127.0.0.1:{port}" if flag == "--http" else f"/ip4/127.0.0.1/tcp/{port}"
        before = set(threading.enumerate())
        done = run("start", "--data", tmp_path, "--coordinator", NOWHERE, "--device", "cpu", flag, where)
    assert done.exit_code == 2, done.output
    assert str(port) in done.stderr
    assert set(threading.enumerate()) <= before
    assert not (tmp_path / "http.address").exists()


def test_a_second_node_on_the_same_data_is_refused(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("start", "--data", tmp_path, "--coordinator", NOWHERE, "--device", "cpu")
    assert done.exit_code == 2
    assert "another node runs" in done.stderr


def test_a_node_without_coordinator_keeps_trying_and_status_tells_a_killed_one_from_a_running_one(tmp_path):
    started = Process(tmp_path, "--coordinator", NOWHERE)
    said = started.until_says("trying again") + started.until_says("trying again")
    assert "no session with the coordinator" in said
    started.end(signal.SIGKILL)
    stale = run("status", "--data", tmp_path)
    assert stale.exit_code == 1
    assert "ended without cleaning up" in stale.stderr

    started = Process(tmp_path, "--coordinator", NOWHERE)
    started.until_says("trying again")
    asked = run("status", "--data", tmp_path, "--json")
    assert asked.exit_code == 0, asked.stderr
    assert json.loads(asked.stdout)["connected"] is False
    assert "not connected" in run("status", "--data", tmp_path).stdout
    code, out, said = started.end()
    assert (code, out) == (0, ""), said
    assert "Traceback" not in said
    gone = run("status", "--data", tmp_path)
    assert gone.exit_code == 1
    assert "no node runs" in gone.stderr


def test_status_of_nothing(tmp_path):
    assert run("status", "--data", tmp_path).exit_code == 1
    nobody = run("status", "--http", "127.0.0.1:1")
    assert nobody.exit_code == 4
    assert "127.0.0.1:1" in nobody.stderr
    assert run("status", "--http", "nonsense").exit_code == 2


async def test_a_registered_node_prints_its_line_serves_and_ends_in_the_middle_of_a_load(coordinator, tmp_path):
    started = Process(tmp_path, "--coordinator", coordinator.address, "--name", "mine", "--json")
    try:
        session = await coordinator.join()
        line = json.loads(await asyncio.to_thread(started.process.stdout.readline))
        assert line["name"] == "mine"
        assert line["peer_id"] == session.channel.peer_id
        assert line["addresses"] == list(session.hello.addresses)
        (assign,) = coordinator.ring(session)
        await session.tell(assign)  # and not a second is left for it
        while (await session.hear(Stats)).ring != assign.ring:
            pass
        code, out, said = await asyncio.to_thread(started.end)
    finally:
        started.process.kill()
    assert (code, out) == (0, ""), said
    assert "Traceback" not in said
    assert not any(isinstance(message, StageReady) for message in session.heard)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (signal.SIGTERM, 0),
        (signal.SIGINT, 130),
        (NodeError("broken"), 1),
        (AddressError("no address"), 2),
        (DialError("no answer"), 4),
    ],
)
def test_how_a_node_ended_is_in_its_exit_code(end, code, monkeypatch, tmp_path):
    async def run_node(settings, *, announce, passphrase):
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(start, "run_node", run_node)
    monkeypatch.setattr(background, "exit_process", sys.exit)
    done = run("start", "--data", tmp_path, "--coordinator", NOWHERE)
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr == {0: "", 130: "interrupted\n"}.get(code, f"Error: {end}\n")
