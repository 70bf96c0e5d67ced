"""The commands: usage errors and a port in use exit 2, no coordinator there 4, and a clean stop on a signal 0."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from deserve_client.main import main
from deserve_coordinator import server
from deserve_coordinator.commands import coordinator
from deserve_coordinator.config import CoordinatorConfig, parse_ring_size
from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.server import ServedModel
from deserve_network.control_messages import ModelRef


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    served = ServedModel(ModelRef("demo", "", "d", "float32"), 4, 64, lambda endpoint, body: None)
    monkeypatch.setattr(server, "load_model", lambda config: served)
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)


def start(*flags: str) -> tuple[int, str]:
    result = CliRunner().invoke(coordinator, ["start", "--model", "demo", *flags])
    return result.exit_code, result.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.usefixtures("model")
def test_an_interrupt_and_a_stop_end_with_different_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    @asynccontextmanager
    async def run_until_signalled(*_: object) -> AsyncIterator[server.Running]:
        parts = asyncio.create_task(asyncio.Event().wait())
        signal.raise_signal(number)
        yield server.Running("http://127.0.0.1:0/v1", "key", "/ip4/127.0.0.1", parts)
        parts.cancel()

    monkeypatch.setattr(server, "run_coordinator", run_until_signalled)
    with pytest.raises(SystemExit) as ended:
        main(["coordinator", "start", "--model", "demo", "--data", str(tmp_path)])
    assert ended.value.code == code


@pytest.mark.usefixtures("model")
def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = start("--data", str(tmp_path), "--http", f"127.0.0.1:{port}")
    assert code == 2
    assert str(port) in output


@pytest.mark.usefixtures("model")
def test_a_listening_address_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = start("--data", str(tmp_path), "--http", "127.0.0.1:0", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
    assert code == 2
    assert str(port) in output


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--ring-size", "many"), ("--http", "nowhere"), ("--link-mbit", "-1"), ("--max-upload-mib", "0")],
)
@pytest.mark.usefixtures("model")
def test_a_bad_flag_is_a_usage_error_that_names_it(tmp_path: Path, flag: str, value: str) -> None:
    code, output = start("--data", str(tmp_path), flag, value)
    assert code == 2
    assert flag in output


@pytest.mark.usefixtures("model")
def test_a_missing_join_token_file_is_named(tmp_path: Path) -> None:
    code, output = start("--data", str(tmp_path), "--http", "127.0.0.1:0", "--join-token-file", str(tmp_path / "none"))
    assert code == 2
    assert "none" in output


def test_status_without_a_coordinator_says_so_with_exit_code_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    result = CliRunner().invoke(
        coordinator, ["status", "--url", f"http://127.0.0.1:{port}/v1"], env={"DESERVE_API_KEY": "k"}
    )
    assert result.exit_code == 4
    assert f"cannot connect to http://127.0.0.1:{port}/v1/network: connection refused" in result.output


def test_status_without_a_key_is_a_usage_error() -> None:
    assert CliRunner().invoke(coordinator, ["status"], env={"DESERVE_API_KEY": ""}).exit_code == 2


def test_addresses_and_ring_sizes() -> None:
    assert (parse_ring_size("auto"), parse_ring_size("3")) == (None, 3)
    for text in ("80", ":x", "h:70000"):
        with pytest.raises(ConfigurationError):
            CoordinatorConfig("demo", Path("x"), http=text)
    with pytest.raises(ConfigurationError):
        parse_ring_size("0")
    with pytest.raises(ConfigurationError, match="dtype"):
        CoordinatorConfig("demo", Path("x"), dtype="int4")
