"""A secret is one line in a file that only its owner can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from deserve_process.errors import SecretUnusable
from deserve_process.secret_file import read_secret


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"open sesame", b"open sesame\n", b" open sesame \r\n"])
def test_the_line_is_the_secret(content: bytes, tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "key", content)) == "open sesame"


def test_the_longest_has_256_characters(tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "key", b"x" * 256 + b"\n")) == "x" * 256


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 257, b"two\nlines", b"tab\there"])
def test_what_is_no_secret_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match=f"^{tmp_path}/key: expected one line of 1 to 256 printable ASCII"):
        read_secret(write(tmp_path / "key", content))


def test_other_bytes_than_ascii_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match="'ascii' codec"):
        read_secret(write(tmp_path / "key", b"\xe4"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_is_open_to_others_is_refused_with_the_remedy(mode: int, tmp_path: Path) -> None:
    file = write(tmp_path / "key", b"known to all", mode)
    with pytest.raises(SecretUnusable, match=f"{file}: mode {mode:04o} lets others read the secret; run: chmod 600 "):
        read_secret(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match=f"{tmp_path}/none"):
        read_secret(tmp_path / "none")
