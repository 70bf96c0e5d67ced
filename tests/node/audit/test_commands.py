"""`deserve ledger calibrate` writes a profile that audits can use, and names what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from deserve_client.main import deserve
from deserve_models import ModelFiles
from deserve_node.audit.calibration import even_cuts
from deserve_node.audit.corpus import token_rows
from deserve_node.audit.errors import AuditError
from deserve_node.audit.profile import load_profile


def run(*arguments: object):
    return CliRunner().invoke(deserve, ["ledger", "calibrate", *map(str, arguments)])


def test_a_profile_is_measured_and_written(tiny_model: Path, tiny_files: ModelFiles, tmp_path: Path):
    file = tmp_path / "profile.json"
    result = run(tiny_model, "--cut", 2, "--rows", 24, "--tokens", 12, "--output", file)
    assert result.exit_code == 0, result.output
    profile = load_profile(file)
    assert (profile.digest, profile.dtype) == (tiny_files.digest, "float32")
    assert [(stage.first, stage.last) for stage in profile.stages] == [(0, 4), (4, 8)]
    head, tail = profile.stages
    assert set(head.wire) == {"raw", "bf16", "int8"}
    assert (head.logits, tail.wire) == (0.0, {})
    assert tail.logits > 0
    assert head.origin.rows == 24


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cut", "9"], "cut: '9'"),
        (["--cut", "x"], "cut: 'x'"),
        (["--rows", "8"], "8 rows are too few"),
    ],
)
def test_what_cannot_be_measured_is_told(tiny_model: Path, tmp_path: Path, arguments, told):
    result = run(tiny_model, *arguments, "--tokens", 8, "--output", tmp_path / "p.json")
    assert result.exit_code == 1
    assert told in result.output
    assert not (tmp_path / "p.json").exists()


def test_a_text_has_to_be_long_enough(tiny_model: Path, tmp_path: Path):
    text = tmp_path / "text"
    text.write_text("too short")
    result = run(tiny_model, "--rows", 24, "--tokens", 8, "--text", text, "--output", tmp_path / "p.json")
    assert "text: 9 tokens where 24 rows of 8" in result.output


def test_cuts_share_no_stage_twice():
    assert even_cuts(8, "1,2,4") == [(0, 8), (0, 4), (4, 8), (0, 2), (2, 4), (4, 6), (6, 8)]
    assert even_cuts(8, "2,2") == [(0, 4), (4, 8)]
    with pytest.raises(AuditError, match="cut: '0'"):
        even_cuts(8, "0")


def test_rows_are_of_text_or_of_random_ids(tiny_files: ModelFiles, tiny_model_without_tokenizer: Path):
    from deserve_models import resolve

    rows = token_rows(tiny_files, 4, 6, text="abcdefghijklmnopqrstuvwxyz")
    assert rows.shape == (4, 6)
    assert len({tuple(row.tolist()) for row in rows}) == 4
    bare = token_rows(resolve(str(tiny_model_without_tokenizer)), 3, 7)
    assert bare.shape == (3, 7)
