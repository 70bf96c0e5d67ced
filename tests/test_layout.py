"""How the repository is cut: source roots, what is shipped, who may import whom, and how fast the command answers."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ["kernels", "ledger", "node", "coordinator"]
PACKAGES = sorted(path for root in SOURCE_ROOTS for path in (ROOT / root).glob("deserve_*") if path.is_dir())


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_source_root_is_a_package(root):
    # A top-level package named `kernels` breaks transformers, which probes for a library of that name.
    assert not (ROOT / root / "__init__.py").exists()
    assert [path.name for path in (ROOT / root).glob("*.py")] == []


def test_nothing_of_ours_is_importable_as_kernels():
    done = subprocess.run([sys.executable, "-c", "import kernels"], capture_output=True, text=True, cwd="/")
    assert "No module named 'kernels'" in done.stderr or "unknown location" in done.stderr


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_is_typed_and_declared(package):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert package.relative_to(ROOT).as_posix() in declared["packages"]
    assert (package / "py.typed").exists()


def test_the_wheel_holds_the_packages_whole_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, stdout=2
    )
    (wheel,) = tmp_path.glob("deserve_net-*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    on_disk = [path for package in PACKAGES for path in package.rglob("*") if path.is_file()]
    wanted = {"/".join(path.relative_to(ROOT).parts[1:]) for path in on_disk}
    assert shipped == {name for name in wanted if "__pycache__" not in name}
    assert {name.split("/")[0] for name in shipped} == {package.name for package in PACKAGES}


def test_imports_point_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def imported_by(code: str) -> set[str]:
    """Top-level modules that are there after `code` ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_client_needs_nothing_heavy():
    code = (
        "import pkgutil, importlib, deserve_client\n"
        "for module in pkgutil.walk_packages(deserve_client.__path__, 'deserve_client.'):\n"
        "    importlib.import_module(module.name)"
    )
    assert not imported_by(code) & {"torch", "transformers", "libp2p", "trio", "numpy", "web3", "eth_account"}


def test_who_pays_nothing_imports_no_ledger():
    assert "deserve_ledger" not in imported_by("import deserve_client.commands, deserve_client.api")


def test_the_command_itself_imports_click_and_little_else():
    assert not imported_by("import deserve_client.main") & {"aiohttp", "rich", "asyncio", "torch"}


def test_help_is_there_in_under_300_ms():
    command = [Path(sys.executable).with_name("deserve"), "--help"]
    times = []
    for _ in range(5):  # the best of five: the machine may be busy with something else
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - begin)
    assert min(times) < 0.3
