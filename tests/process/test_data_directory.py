"""One process per data directory, closed to others, free again when its holder ends."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deserve_process.data_directory import is_held, locked_data
from deserve_process.errors import DataInUse, DataUnusable

HOLDER = """
import sys
from pathlib import Path
from deserve_process.data_directory import locked_data
with locked_data(Path(sys.argv[1]), "node"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_directory_is_made_closed_to_others_and_held(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert not is_held(folder)
    with locked_data(folder, "node"):
        assert is_held(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not is_held(folder)


def test_a_directory_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with locked_data(tmp_path, "coordinator"):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_second_holder_is_refused_and_told_by_what(tmp_path: Path) -> None:
    with (
        locked_data(tmp_path, "coordinator"),
        pytest.raises(DataInUse, match=f"another coordinator runs on {tmp_path}"),
        locked_data(tmp_path, "coordinator"),
    ):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnusable, match=f"data: {tmp_path}/file/below: Not a directory"):
        locked_data(tmp_path / "file" / "below", "node").__enter__()


def test_a_killed_holder_holds_no_longer(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(tmp_path)
        holder.kill()
    assert not is_held(tmp_path)
