"""Foundry's anvil, another implementation of an EVM chain, as npm ships it. Fetched once into the user's cache."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["AnvilMissing", "anvil_running", "find_anvil"]

PACKAGE = "@foundry-rs/anvil-linux-amd64@1.7.1"
FETCH_TIMEOUT_S = 120


class AnvilMissing(Exception):
    pass


def find_anvil() -> Path:
    """The binary. Raises `AnvilMissing` with the reason."""
    if on_path := shutil.which("anvil"):
        return Path(on_path)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise AnvilMissing(f"{PACKAGE} is for Linux on x86-64")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deserve-net" / "anvil-1.7.1"
    if cache.exists():
        return cache
    if shutil.which("npm") is None:
        raise AnvilMissing(f"npm is needed to fetch {PACKAGE}")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        try:
            command = ["npm", "pack", "--silent", PACKAGE]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise AnvilMissing(f"npm cannot fetch {PACKAGE}: {error}") from error
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extract("package/bin/anvil", folder, filter="data")
        binary = Path(folder) / "package/bin/anvil"
        binary.chmod(0o755)
        binary.rename(cache)
    return cache


@contextmanager
def anvil_running() -> Iterator[str]:
    """The URL of a fresh chain. Raises `AnvilMissing`."""
    command = [find_anvil(), "--port", "0", "--host", "127.0.0.1", "--timestamp", "1700000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("Listening on "):
                yield f"http://{line.split()[-1]}"
                return
        raise AnvilMissing(f"anvil ended with {process.wait()} before it listened")
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(30)
