"""`deserve` starts fast, imports little, and says what is missing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from deserve_client import main
from deserve_client.errors import InputError, UnreachableError

HEAVY = ("aiohttp", "rich", "torch", "transformers", "libp2p", "asyncio", "pydantic")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_nothing_heavy():
    result = python("-X", "importtime", "-m", "deserve_client.main", "--help")
    assert result.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not imported & set(HEAVY)


def test_batch_help_imports_no_client():
    result = python("-X", "importtime", "-m", "deserve_client.main", "batch", "submit", "--help")
    assert result.returncode == 0
    assert "aiohttp" not in result.stderr


def test_help_takes_less_than_300_ms():
    def once() -> float:
        start = time.perf_counter()
        assert python("-m", "deserve_client.main", "--help").returncode == 0
        return time.perf_counter() - start

    # The best of several: the machine may be busy, the command may not be slow.
    assert min(once() for _ in range(5)) < 0.3


def test_help_lists_every_subcommand():
    out = python("-m", "deserve_client.main", "--help").stdout
    for name, subcommand in main.SUBCOMMANDS.items():
        assert name in out
        assert subcommand.short_help in out


def test_version():
    assert python("-m", "deserve_client.main", "--version").stdout.startswith("deserve ")


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["--no-such-option"], ["batch", "submit"], ["batch", "list", "--limit", "0"]]
)
def test_wrong_usage_exits_with_2(arguments):
    result = python("-m", "deserve_client.main", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error" in result.stderr


def test_a_missing_extra_is_named(monkeypatch, capsys):
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(main.importlib, "import_module", absent)
    with pytest.raises(SystemExit) as ended:
        main.main(["node", "start"])
    assert ended.value.code == 2
    assert "pip install 'deserve-net[node]'" in capsys.readouterr().err


def test_a_broken_subcommand_of_ours_is_not_blamed_on_an_extra(monkeypatch):
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name="deserve_node.engine")

    monkeypatch.setattr(main.importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError):
        main.main(["node", "start"])


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (InputError("x"), 2), (UnreachableError("x"), 4)]
)
def test_exit_codes(monkeypatch, raised, code):
    def broken(name: str) -> None:
        raise raised

    monkeypatch.setattr(main.importlib, "import_module", broken)
    with pytest.raises(SystemExit) as ended:
        main.main(["batch", "list"])
    assert ended.value.code == code


def test_tests_can_interrupt_what_they_start_although_pytest_was_started_with_sigint_ignored():
    conftest = Path(__file__).parents[1] / "conftest.py"
    code = f"""
import runpy, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
runpy.run_path({str(conftest)!r})
subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"])
"""
    assert python("-c", code).stdout == "False\n"
