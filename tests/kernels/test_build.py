"""Building the kernels: once per machine, by one process, with torch's OpenMP runtime, or not at all with a reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deserve_kernels import attention, library, reference
from deserve_kernels.attention import paged_attention
from deserve_kernels.build import build, find_compiler
from deserve_kernels.errors import BuildError


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    library.native_library.cache_clear()
    yield
    library.native_library.cache_clear()


def test_a_second_build_finds_the_first(tmp_path):
    first = build(tmp_path)
    written = first.stat().st_mtime_ns
    assert build(tmp_path) == first
    assert first.stat().st_mtime_ns == written
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["build.lock", first.name])


def test_processes_that_start_together_share_one_build(tmp_path):
    command = [sys.executable, "-m", "deserve_kernels.build"]
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    roots = {"PYTHONPATH": str(Path(library.__file__).parents[1])}
    starts = [subprocess.Popen(command, env=environment | roots, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {start.communicate(timeout=120)[0] for start in starts}
    assert [start.returncode for start in starts] == [0, 0]
    assert len(printed) == 1
    assert len(list((tmp_path / "deserve-net" / "kernels").glob("*.so"))) == 1


def test_a_missing_compiler_names_the_package(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match=r"apt-get install g\+\+"):
        find_compiler()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="failed with status 1"):
        build(tmp_path)


@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_the_reference_runs_after_one_warning(batch_of):
    batch = batch_of([(20, 5)])
    with pytest.warns(RuntimeWarning, match="no-such-compiler"):
        first = batch.attend(paged_attention)
    assert torch.equal(first, batch.attend(reference.paged_attention))
    assert torch.equal(first, batch.attend(paged_attention))  # a second warning would be an error


def test_without_triton_one_warning_names_the_package(monkeypatch):
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    attention.has_triton.cache_clear()
    with pytest.warns(RuntimeWarning, match="pip install triton"):
        assert not attention.has_triton()
    assert not attention.has_triton()  # a second warning would be an error
    attention.has_triton.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_one_openmp_runtime_is_loaded():
    code = (
        "import torch; from deserve_kernels.library import native_library; assert native_library();"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.split()[-1].lower()"
        " and '.so' in line.split()[-1]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "1"


def test_importing_the_package_builds_nothing(tmp_path):
    code = "import deserve_kernels, os, sys; sys.exit(os.path.exists(os.environ['XDG_CACHE_HOME'] + '/deserve-net'))"
    roots = {"PYTHONPATH": str(Path(library.__file__).parents[1]), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=roots, check=True, timeout=120)
