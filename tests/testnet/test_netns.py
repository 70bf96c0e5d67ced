"""The emulated internet of `--wan netns` carries the kernel's own TCP, and leaves nothing behind."""

import sys
from pathlib import Path

import pytest

from deserve_testnet.errors import Unavailable
from deserve_testnet.processes import Processes
from deserve_testnet.wan import internet
from deserve_testnet.wan.internet import Internet, why_unavailable
from deserve_testnet.wan.star import remove_remains

needs_netns = [
    pytest.mark.netns,
    pytest.mark.skipif(why_unavailable() is not None, reason=f"no network namespaces: {why_unavailable()}"),
]

ECHO_SERVER = """
import json, socket, sys
server = socket.create_server((sys.argv[1], 0))
print(json.dumps({"port": server.getsockname()[1]}), flush=True)
while True:
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
"""

ROUND_TRIPS = """
import json, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(3):
    begin = time.monotonic()
    connection.sendall(b"x")
    connection.recv(1)
    times.append(time.monotonic() - begin)
print(json.dumps({"rtt_s": min(times)}), flush=True)
"""


def namespaces(star: Internet) -> list[str]:
    folder = Path("/run/netns")
    return [name for name in star.namespaces if (folder / name).exists()]


async def start(processes: Processes, *, latency_ms: float = 40.0, mbit: float = 0.0) -> Internet:
    return await Internet.start(processes, 2, latency_ms=latency_ms, jitter_ms=0.0, mbit=mbit, seed=0)


async def run(processes: Processes, name: str, prefix: list[str], code: str, *arguments: str) -> dict:
    process = await processes.spawn(name, [*prefix, sys.executable, "-S", "-c", code, *arguments])
    answer = await process.first_line(30)
    process.ended_by_us = "server" not in name
    return answer


class TestInternet:
    pytestmark = needs_netns

    @pytest.mark.parametrize("mbit", [0.0, 50.0])
    async def test_members_are_apart_by_the_latency_and_the_machine_is_near(self, tmp_path, mbit):
        async with Processes(tmp_path) as processes:
            star = await start(processes, mbit=mbit)
            server = await run(processes, "server", star.inside(1), ECHO_SERVER, star.addresses[1])
            target = (star.addresses[1], str(server["port"]))
            far = await run(processes, "far", star.inside(0), ROUND_TRIPS, *target)
            near = await run(processes, "near", [], ROUND_TRIPS, *target)
        assert 0.08 <= far["rtt_s"] < 0.16
        assert near["rtt_s"] < 0.04
        assert namespaces(star) == []

    async def test_what_a_crash_leaves_is_removed_by_the_next_start(self, tmp_path):
        async with Processes(tmp_path) as processes:
            star = await start(processes)
            await star.process.kill()
            assert len(namespaces(star)) == 2
            remove_remains()
            assert namespaces(star) == []

    async def test_two_at_once_do_not_meet(self, tmp_path):
        async with Processes(tmp_path) as processes:
            one, other = await start(processes), await start(processes)
            assert not set(one.namespaces) & set(other.namespaces)
            assert not set(one.addresses) & set(other.addresses)


async def test_an_unprivileged_user_is_told_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(internet.sys, "platform", "linux")
    monkeypatch.setattr(internet.os, "geteuid", lambda: 1000)
    async with Processes(tmp_path) as processes:
        with pytest.raises(Unavailable, match="it needs root") as raised:
            await start(processes)
    assert raised.value.exit_code == 2
