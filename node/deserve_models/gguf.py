"""From a GGUF file to a directory in Hugging Face layout, once, in the cache.

Tensors are dequantised one at a time and written to their place in one float32 safetensors file, so the conversion
needs the memory of the largest tensor, not of the model. Names and the few rearrangements that llama.cpp makes are
undone by transformers' own tables; float32 keeps every dequantised value exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deserve_models.cache import make_once
from deserve_models.errors import ModelFileError, UnservableModelError
from deserve_models.files import SINGLE_FILE, ModelFiles, open_directory
from deserve_models.gguf_header import GgufHeader, read_gguf_header

__all__ = ["convert", "open_gguf"]

# Part of the cache key: grows when the same file would be converted differently.
_FORMAT = 1


def open_gguf(id: str, file: Path, cache: Path) -> ModelFiles:
    """The converted directory of `file`, made on first use. Its revision and digest are the SHA-256 of the file.

    Raises `ModelFileError` for a truncated or foreign file, `UnservableModelError` for an architecture without a
    mapping.
    """
    header = read_gguf_header(file)
    digest = _digest(file, cache)
    directory = make_once(cache / "gguf" / f"{digest}-{_FORMAT}", lambda target: convert(file, header, target))
    # Not the converted files' digest: another transformers may write the same tokenizer differently.
    return replace(open_directory(id, digest, directory), digest=digest)


def convert(file: Path, header: GgufHeader, directory: Path) -> None:
    """Write config, generation config, tokenizer and tensors of `file` into the empty `directory`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        config = AutoConfig.from_pretrained(**place)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
        names = get_gguf_hf_weights_map(model, processor)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnservableModelError(f"{file}: GGUF architecture {header.architecture}: {error}") from error
    try:
        AutoTokenizer.from_pretrained(**place).save_pretrained(directory)
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise ModelFileError(f"{file}: its tokenizer cannot be converted: {error!r}") from error
    tied = config.tie_word_embeddings and all(tensor.name != "output.weight" for tensor in header.tensors)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.state_dict().items()
        if not (tied and name in model.all_tied_weights_keys)
    }
    _write_tensors(directory / SINGLE_FILE, shapes, _dequantised(file, header, processor, names), file)
    config.architectures = [type(model).__name__]
    config.dtype = "float32"
    config.save_pretrained(directory)
    GenerationConfig.from_model_config(config).save_pretrained(directory)


def _dequantised(file: Path, header: GgufHeader, processor: Any, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    fused: dict[str, Any] = {"tensors": {}}
    for tensor in header.tensors:
        kind = GGMLQuantizationType(tensor.kind)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        row = tensor.shape[-1] // block * block_bytes
        raw = np.fromfile(file, np.uint8, count=tensor.nbytes, offset=tensor.offset).reshape(*tensor.shape[:-1], row)
        if kind == GGMLQuantizationType.F32:
            raw = raw.view(np.float32)
        elif kind == GGMLQuantizationType.F16:
            raw = raw.view(np.float16)
        values = dequantize(raw, kind)
        result = processor.process(weights=values, name=tensor.name, tensor_key_mapping=names, parsed_parameters=fused)
        if result.name in names:
            yield names[result.name], np.ascontiguousarray(result.weights, dtype=np.float32)
    for name, value in fused["tensors"].items():
        yield name, np.ascontiguousarray(value, dtype=np.float32)


def _write_tensors(
    target: Path, shapes: dict[str, tuple[int, ...]], tensors: Iterator[tuple[str, Any]], source: Path
) -> None:
    places: dict[str, tuple[int, int]] = {}
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        nbytes = 4
        for length in shape:
            nbytes *= length
        places[name] = (end, end + nbytes)
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + nbytes]}
        end += nbytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    missing = set(shapes)
    with target.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        out.truncate(8 + len(header) + end)
        for name, values in tensors:
            if name not in places:
                continue
            if values.shape != shapes[name]:
                raise ModelFileError(f"{source}: {name} has shape {list(values.shape)}, not {list(shapes[name])}")
            out.seek(8 + len(header) + places[name][0])
            out.write(memoryview(values).cast("B"))
            missing.discard(name)
        out.flush()
        os.fsync(out.fileno())
    if missing:
        raise ModelFileError(f"{source}: no tensor for {min(missing)} ({len(missing)} missing)")


def _digest(file: Path, cache: Path) -> str:
    """SHA-256 of `file`, remembered for as long as its size and modification time stay the same."""
    status = file.stat()
    key = hashlib.sha256(f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()
    note = cache / "gguf" / "digests" / key
    if note.is_file() and len(digest := note.read_text()) == 64:
        return digest
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f"{key}.{os.getpid()}")
    partial.write_text(digest)
    partial.rename(note)
    return digest
