"""A Hub model arrives in the pieces that a layer range needs, and goes on where a download broke off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deserve_models import ModelFileError, ModelFiles, ModelNotFoundError, ModelUnreachableError, inspect
from deserve_models.hub import open_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def open_tiny(hub: Any, cache: Path, revision: str | None = None) -> ModelFiles:
    return open_hub("somebody/tiny", revision, cache, endpoint=hub.endpoint)


def test_resolving_fetches_no_tensors_and_pins_the_commit(hub: Any, tmp_path: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    assert files.revision == COMMIT
    assert files.directory.name == COMMIT
    assert sorted(hub.downloads) == ["config.json", "model.safetensors.index.json", "tokenizer_config.json"]


def test_a_range_fetches_only_its_files(hub: Any, tmp_path: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    hub.downloads.clear()
    tensors = files.fetch_layers(1, 2, 3)
    assert set(hub.downloads) == {"layer-1.safetensors"}
    assert set(tensors) == {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"}
    files.fetch_layers(0, 2, 3)
    assert set(hub.downloads) == {"embedding.safetensors", "layer-0.safetensors", "layer-1.safetensors"}
    assert max(hub.downloads.values()) == 1


def test_inspection_reads_headers_over_the_network(hub: Any, tmp_path: Path, model_directory: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    hub.downloads.clear()
    summary = inspect(files)
    assert summary.num_layers == 3
    assert not any(name.endswith(".safetensors") for name in hub.downloads)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deserve_models.hub._BACKOFF_S", 0.001)


@pytest.mark.usefixtures("_impatient")
def test_a_broken_download_goes_on_where_it_stopped(hub: Any, tmp_path: Path, model_directory: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    hub.cut_after["layer-2.safetensors"] = 300
    files.fetch_layers(2, 3, 3)
    assert [start for name, start in hub.ranges if name == "layer-2.safetensors"] == [0, 300]
    arrived = (files.directory / "layer-2.safetensors").read_bytes()
    assert arrived == (model_directory / "layer-2.safetensors").read_bytes()


@pytest.mark.usefixtures("_impatient")
def test_a_failed_download_goes_on_in_the_next_process(hub: Any, tmp_path: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    hub.cut_after["layer-2.safetensors"] = 300
    hub.refuse_from = 1
    with pytest.raises(ModelUnreachableError, match=r"somebody/tiny: layer-2\.safetensors: cannot fetch it"):
        files.fetch_layers(2, 3, 3)
    assert not (files.directory / "layer-2.safetensors").exists()
    hub.refuse_from = None
    hub.ranges.clear()
    assert len(open_tiny(hub, tmp_path / "cache").fetch_layers(2, 3, 3)) == 4
    assert ("layer-2.safetensors", 300) in hub.ranges


def test_what_was_fetched_serves_without_a_network(hub: Any, tmp_path: Path) -> None:
    files = open_tiny(hub, tmp_path / "cache")
    files.fetch_layers(0, 3, 3)
    hub.close()
    again = open_tiny(hub, tmp_path / "cache")
    assert again == files
    assert len(again.fetch_layers(0, 3, 3)) == 9
    with pytest.raises(ModelUnreachableError, match="somebody/tiny: cannot fetch it"):
        open_tiny(hub, tmp_path / "another-cache")


def test_an_unknown_repository_is_not_found(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nobody/none: not on the Hub"):
        open_hub("nobody/none", None, tmp_path / "cache", endpoint=hub.endpoint)


@pytest.mark.parametrize("commit", ["../../elsewhere", "", COMMIT[:-1], COMMIT.upper(), COMMIT + "\n"])
def test_a_commit_that_is_no_hash_becomes_no_directory(hub: Any, tmp_path: Path, commit: str) -> None:
    hub.commit = commit
    with pytest.raises(ModelFileError, match="names a commit that is none"):
        open_tiny(hub, tmp_path / "cache")
    assert not hub.downloads


def test_pickled_weights_are_refused_before_any_download(hub: Any, tmp_path: Path, model_directory: Path) -> None:
    for file in model_directory.glob("*.safetensors*"):
        file.unlink()
    (model_directory / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        open_tiny(hub, tmp_path / "cache")
    assert not hub.downloads
