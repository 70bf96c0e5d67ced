"""A directory in Hugging Face layout is checked before anything is loaded from it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from deserve_models import ModelFileError, ModelNotFoundError, resolve


def test_a_sound_directory_resolves_to_itself(model_directory: Path) -> None:
    files = resolve(str(model_directory))
    assert (files.id, files.revision, files.directory) == (str(model_directory), "", model_directory)
    assert len(files.digest) == 64
    assert set(files.fetch_layers(2, 3, 3)) == {
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_the_digest_follows_config_and_index_but_not_the_place(model_directory: Path, tmp_path: Path) -> None:
    before = resolve(str(model_directory)).digest
    moved = model_directory.rename(tmp_path / "elsewhere")
    assert resolve(str(moved)).digest == before
    config = moved / "config.json"
    config.write_text(config.read_text().replace("32", "64"))
    assert resolve(str(moved)).digest != before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_the_digest_follows_tokenizer_and_generation_config(model_directory: Path, name: str) -> None:
    digests = []
    for content in (None, "{}", '{"eos_token_id": 2}'):
        (model_directory / name).unlink(missing_ok=True)
        if content is not None:
            (model_directory / name).write_text(content)
        digests.append(resolve(str(model_directory)).digest)
    assert len(set(digests)) == 3


def test_the_digest_ignores_what_decides_no_token(model_directory: Path) -> None:
    before = resolve(str(model_directory)).digest
    (model_directory / "README.md").write_text("A model.")
    assert resolve(str(model_directory)).digest == before


def test_a_tail_without_an_output_head_needs_the_embedding(model_directory: Path) -> None:
    index = model_directory / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    del table["weight_map"]["lm_head.weight"]
    index.write_text(json.dumps(table))
    assert "model.embed_tokens.weight" in resolve(str(model_directory)).fetch_layers(2, 3, 3)


@pytest.mark.parametrize("id", ["./nowhere", "/nowhere/at/all", "no such id!", "missing.gguf"])
def test_what_is_not_there_is_not_found(id: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such directory or file"):
        resolve(id)


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: pickled weights can run code"):
        resolve(str(tmp_path))


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        resolve(str(tmp_path))


def test_an_index_may_not_point_outside_the_directory(model_directory: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (model_directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="is not the name of a safetensors file beside it"):
        resolve(str(model_directory))


def test_a_missing_tensor_file_is_named(model_directory: Path) -> None:
    (model_directory / "layer-1.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"layer-1\.safetensors: named in .* but missing"):
        resolve(str(model_directory))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1], "truncated: "),
        (lambda data: data[:20], "truncated or not a safetensors file"),
        (lambda data: b"", "truncated or not a safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "header is not JSON"),
        (lambda data: struct.pack("<Q", 1 << 20) + b"[" * (1 << 20), "header is not JSON"),
        (lambda data: data.replace(b'"F32"', b'"Z99"'), "bad header entry"),
        (lambda data: data.replace(b"[8, 8]", b"[8, 9]"), "does not fill"),
    ],
)
def test_a_damaged_tensor_file_is_named(model_directory: Path, damage: object, reason: str) -> None:
    file = model_directory / "layer-0.safetensors"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelFileError, match=reason) as error:
        resolve(str(model_directory)).fetch_layers(0, 1, 3)
    assert "layer-0.safetensors" in str(error.value)
