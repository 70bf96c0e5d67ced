"""`deserve model` prints results on stdout, reasons on stderr, and exits 0, 2 or 4."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deserve_models import commands
from deserve_models.commands import model
from deserve_models.errors import ModelUnreachableError


def test_path_prints_the_directory_alone(model_directory: Path) -> None:
    result = CliRunner().invoke(model, ["path", str(model_directory)])
    assert (result.exit_code, result.stdout) == (0, f"{model_directory}\n")


def test_path_as_json_names_model_and_revision(model_directory: Path) -> None:
    result = CliRunner().invoke(model, ["path", str(model_directory), "--json"])
    name = str(model_directory)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"id": name, "revision": "", "directory": name})


def test_inspect_prints_sizes_from_headers(model_directory: Path) -> None:
    result = CliRunner().invoke(model, ["inspect", str(model_directory), "--dtype", "bfloat16", "--json"])
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    layer = (8 * 8 + 16 * 8) * 2
    assert summary["num_layers"] == 3
    assert summary["layer_bytes"] == [layer] * 3
    assert summary["head_bytes"] == 16 * 8 * 2
    assert summary["edge_bytes"] == (16 * 8 + 8) * 2
    assert summary["kv_bytes_per_token_layer"] == 2 * 1 * 4 * 2
    assert summary["parameters"] == 3 * 192 + 128 + 136
    assert (summary["servable"], summary["unservable"]) == (True, "")


def test_inspect_tells_people_the_same(model_directory: Path) -> None:
    result = CliRunner().invoke(model, ["inspect", str(model_directory)])
    assert result.exit_code == 0
    assert "layers                3\n" in result.stdout
    assert "served                yes\n" in result.stdout


def test_inspect_says_why_a_model_is_not_served(model_directory: Path) -> None:
    config = model_directory / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_types": ["linear_attention"] * 3}))
    result = CliRunner().invoke(model, ["inspect", str(model_directory)])
    assert result.exit_code == 0
    assert "no: llama: layer_types: linear_attention layers keep state" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code"), [(["path", "./nowhere"], 2), (["inspect", "./nowhere"], 2), (["path"], 2), (["x"], 2)]
)
def test_failures_go_to_stderr_with_their_exit_code(arguments: list[str], code: int) -> None:
    result = CliRunner().invoke(model, arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Error: " in result.stderr


def test_a_hub_that_does_not_answer_is_the_networks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(id: str, *, revision: str | None) -> None:
        raise ModelUnreachableError(f"{id}: cannot fetch it: timed out")

    monkeypatch.setattr(commands, "resolve", silent)
    result = CliRunner().invoke(model, ["path", "somebody/tiny"])
    assert (result.exit_code, result.stderr) == (4, "Error: somebody/tiny: cannot fetch it: timed out\n")


def test_inspection_imports_neither_torch_nor_transformers(model_directory: Path) -> None:
    program = (
        "import sys; from deserve_models.commands import model; "
        f"model(['inspect', {str(model_directory)!r}], standalone_mode=False); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
