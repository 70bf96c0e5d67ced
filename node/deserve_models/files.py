"""The files of one model on this machine: configuration, tokenizer, tensor index, and the tensors fetched so far.

`ModelFiles` is what `resolve` hands out. It knows nothing of tensors as such: it tells which file holds which tensor
and brings the files that a layer range needs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deserve_models.errors import ModelFileError
from deserve_models.layers import names_for
from deserve_models.safetensors_header import TensorEntry, parse_header, read_header

__all__ = ["INDEX_FILE", "SINGLE_FILE", "ModelFiles", "Remote", "open_directory", "read_json", "text_config"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# What else decides which tokens a prompt becomes and where an answer ends; each only where the model has it.
_TEXT_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip


class Remote(Protocol):
    """Where missing tensor files come from."""

    def fetch(self, names: list[str], directory: Path) -> None:
        """Bring whole files into `directory`, resuming what an earlier call began."""

    def header(self, name: str) -> bytes:
        """The header JSON of a safetensors file, without the file."""


@dataclass(frozen=True)
class ModelFiles:
    """A model whose configuration, tokenizer and index are in `directory`.

    `revision` is the commit of a Hub model, the file digest of a GGUF, and empty for a directory. `digest` is SHA-256
    over config.json, the tensor index, generation_config.json and the tokenizer's files: equal digests mean equal
    architecture, tensor layout, tokens and chat template. The tensors' values are not read. A GGUF's is the file's own.
    """

    id: str
    revision: str
    directory: Path
    digest: str
    remote: Remote | None = None

    def config(self) -> dict[str, Any]:
        return read_json(self.directory / "config.json")

    def tensor_files(self) -> dict[str, str]:
        """Tensor name -> name of the file that holds it. Raises `ModelFileError`."""
        index = self.directory / INDEX_FILE
        if index.exists():
            return _weight_map(index)
        return dict.fromkeys(self._header(SINGLE_FILE), SINGLE_FILE)

    def tensors(self) -> dict[str, TensorEntry]:
        """Every tensor with shape, type and place, from headers only. Raises `ModelFileError`."""
        files = self.tensor_files()
        entries: dict[str, TensorEntry] = {}
        for file in sorted(set(files.values())):
            entries.update(self._header(file))
        missing = files.keys() - entries.keys()
        if missing:
            name = min(missing)
            raise ModelFileError(f"{self.directory / files[name]}: tensor {name} of the index is not in it")
        return entries

    def fetch_layers(self, first: int, last: int, num_layers: int) -> dict[str, TensorEntry]:
        """Bring the tensor files that layers [first, last) need; returns the tensors of that range.

        Blocks on the network for a Hub model, and resumes what an earlier call began. Raises `ModelFileError` where a
        file is missing or truncated.
        """
        files = self.tensor_files()
        names = names_for(files, first, last, num_layers)
        needed = sorted({files[name] for name in names})
        if self.remote is not None:
            self.remote.fetch(needed, self.directory)
        entries: dict[str, TensorEntry] = {}
        for file in needed:
            entries.update(read_header(self.directory / file))
        for name in names:
            if name not in entries:
                raise ModelFileError(f"{self.directory / files[name]}: tensor {name} of the index is not in it")
        return {name: entries[name] for name in names}

    def _header(self, file: str) -> dict[str, TensorEntry]:
        path = self.directory / file
        if path.exists() or self.remote is None:
            return read_header(path)
        return parse_header(self.remote.header(file), path)


def open_directory(id: str, revision: str, directory: Path, remote: Remote | None = None) -> ModelFiles:
    """Check that `directory` holds config.json and safetensors, and compute the digest. Raises `ModelFileError`."""
    config = directory / "config.json"
    if not config.is_file():
        raise ModelFileError(f"{directory}: no config.json; this is not a model in Hugging Face layout")
    read_json(config)
    digest = hashlib.sha256(config.read_bytes())
    index = directory / INDEX_FILE
    if index.is_file():
        for name in set(_weight_map(index).values()):
            if remote is None and not (directory / name).is_file():
                raise ModelFileError(f"{directory / name}: named in {INDEX_FILE} but missing")
        digest.update(index.read_bytes())
    elif (directory / SINGLE_FILE).is_file():
        digest.update(header_bytes(directory / SINGLE_FILE))
    elif remote is not None:
        digest.update(remote.header(SINGLE_FILE))
    else:
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        if pickles:
            raise ModelFileError(
                f"{directory / pickles[0]}: pickled weights can run code when loaded and are refused; "
                "convert them to safetensors"
            )
        raise ModelFileError(f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE}")
    for name in _TEXT_FILES:
        if (directory / name).is_file():
            # Name and own digest, so that content cannot move between files unnoticed.
            with (directory / name).open("rb") as stream:
                digest.update(name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return ModelFiles(id, revision, directory, digest.hexdigest(), remote)


def header_bytes(file: Path) -> bytes:
    """The header JSON of a local safetensors file, after its checks."""
    read_header(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(length)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises `ModelFileError`."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: not a JSON object")
    return value


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a multimodal configuration, or the configuration itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise ModelFileError(f"{index}: tensor {name}: {file!r} is not the name of a safetensors file beside it")
    return weight_map
