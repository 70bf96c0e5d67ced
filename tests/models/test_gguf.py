"""A GGUF file becomes a directory in Hugging Face layout once; a damaged one is refused before any work."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from deserve_models import ModelFileError, ModelFiles, UnservableModelError, resolve
from deserve_models.demo import demo_file


def same_tensors_as_transformers(files: ModelFiles, file: Path) -> bool:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    expected = model.state_dict()
    with safe_open(files.directory / "model.safetensors", "pt") as ours:
        names = set(ours.keys())
        tied = {"lm_head.weight"} - names
        return names | tied == set(expected) and all(torch.equal(ours.get_tensor(n), expected[n]) for n in names)


def test_a_converted_file_has_the_tensors_that_transformers_reads(
    write_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf()
    files = resolve(str(file), cache=tmp_path / "cache")
    assert len(files.revision) == 64
    present = {path.name for path in files.directory.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"} <= present
    assert same_tensors_as_transformers(files, file)


def test_the_conversion_is_made_once(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    first = resolve(str(write_gguf()), cache=tmp_path / "cache")
    made = (first.directory / "model.safetensors").stat().st_mtime_ns
    copy = tmp_path / "same-content.gguf"
    copy.write_bytes((tmp_path / "tiny.gguf").read_bytes())
    second = resolve(str(copy), cache=tmp_path / "cache")
    assert (second.directory, second.digest) == (first.directory, first.digest)
    assert (second.directory / "model.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-40], r"truncated: tensor blk\.0\.ffn_down\.weight ends at byte"),
        (lambda data: data[:400], "truncated inside its header"),
        (lambda data: data[:4], "truncated inside its header"),
        (lambda data: b"PK" + data, "not a GGUF file"),
        (lambda data: b"", "not a GGUF file"),
        (lambda data: data[:4] + b"\x09\0\0\0" + data[8:], "GGUF version 9"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "damaged header"),
        (lambda data: data[:24] + struct.pack("<QI", 0, 9) + struct.pack("<IQ", 9, 1) * 100_000, "damaged header"),
    ],
)
def test_a_damaged_file_is_refused_and_leaves_nothing(
    write_gguf: Callable[..., Path], tmp_path: Path, damage: object, reason: str
) -> None:
    file = write_gguf()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelFileError, match=reason) as error:
        resolve(str(file), cache=tmp_path / "cache")
    assert str(file) in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_an_architecture_without_a_mapping_is_refused(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(architecture="wavtokenizer-dec")
    with pytest.raises(UnservableModelError, match="GGUF architecture wavtokenizer-dec"):
        resolve(str(file), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "gguf").glob("*-1*/"))


@pytest.mark.soak
def test_the_demo_model_converts_in_time_and_exactly(tmp_path: Path) -> None:
    began = time.monotonic()
    files = resolve("demo", cache=tmp_path / "cache")
    assert time.monotonic() - began < 40
    assert same_tensors_as_transformers(files, demo_file())
