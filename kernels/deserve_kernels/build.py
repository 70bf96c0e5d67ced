"""Compiles the C++ kernels with the user's compiler into the user's cache: `python -m deserve_kernels.build`.

The shared object has a plain C interface, so that neither Python's nor torch's headers are needed. Its name is a hash
of sources, flags, compiler and processor; processes that start together wait for the one that compiles. It is linked
against the OpenMP runtime that torch has loaded: a second one would bring a second pool of threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import torch

from deserve_kernels.errors import BuildError

__all__ = ["build", "find_compiler"]

SOURCES = ("attention.cpp", "codecs.cpp", "copies.cpp", "noise.cpp", "pages.cpp", "rowwise.cpp")
HEADERS = ("vector.h",)
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC", "-fvisibility=default")
COMPILE_DEADLINE_S = 300


def find_compiler() -> str:
    """Path of `$CXX`, else of g++ or c++. Raises `BuildError` naming the package to install where there is none."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "c++"]:
        path = shutil.which(name)
        if path is not None:
            return path
    if wanted:
        raise BuildError(f"CXX is set to {wanted!r}, which is no program")
    raise BuildError("no C++ compiler found: install g++ (on Debian and Ubuntu: apt-get install g++)")


def build(directory: Path | None = None) -> Path:
    """Path of the shared object, compiled now if no earlier call on this machine did.

    `directory` defaults to `$XDG_CACHE_HOME/deserve-net/kernels` (`~/.cache/...`). Raises `BuildError`.
    """
    compiler = find_compiler()
    directory = directory or _cache_directory()
    runtime = _openmp_runtime()
    target = directory / f"{_fingerprint(compiler, runtime)}.so"
    if target.exists():
        return target
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(directory / "build.lock"):
        if not target.exists():
            _compile(compiler, runtime, target)
    return target


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deserve-net" / "kernels"


def _source_directory() -> Path:
    return Path(str(files("deserve_kernels"))) / "native"


def _fingerprint(compiler: str, runtime: Path | None) -> str:
    digest = hashlib.sha256()
    for name in SOURCES + HEADERS:
        digest.update((_source_directory() / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\n".join([*FLAGS, version, _processor(), str(runtime)]).encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What -march=native depends on: two machines may share a home directory."""
    with contextlib.suppress(OSError):
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
        return "\n".join([platform.machine(), *(line for line in lines if line.startswith(wanted))])
    return f"{platform.machine()} {platform.processor()}"


def _openmp_runtime() -> Path | None:
    """The libgomp in torch's own folder, if this build of torch carries one; None means the compiler's."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    found += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return found[0] if found else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(compiler: str, runtime: Path | None, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        objects = []
        for name in SOURCES:
            objects.append(str(Path(scratch) / f"{name}.o"))
            _run([compiler, *FLAGS, "-c", str(_source_directory() / name), "-o", objects[-1]])
        library = str(Path(scratch) / "kernels.so")
        # Named by its path instead of -fopenmp: the loader then finds torch's copy by its soname.
        openmp = ["-fopenmp"] if runtime is None else [str(runtime), "-lpthread"]
        _run([compiler, "-shared", *objects, *openmp, "-o", library])
        os.replace(library, target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took longer than {COMPILE_DEADLINE_S} s") from error
    if done.returncode != 0:
        said = done.stderr.strip()[-2000:]
        raise BuildError(f"{command[0]} failed with status {done.returncode} (is libstdc++'s -dev there?): {said}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(f"deserve_kernels: {error}")
