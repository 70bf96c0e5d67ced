"""Safetensors headers: where each tensor lies in its file. No tensor is read and nothing but JSON is parsed.

A file is 8 bytes of little-endian header length, that many bytes of JSON, then the tensors
(https://huggingface.co/docs/safetensors). Everything is checked against the file's real size first, so that a
truncated download is an error here and not a crash while loading.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deserve_models.errors import ModelFileError

__all__ = ["DTYPE_BYTES", "TensorEntry", "parse_header", "read_header"]

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip

MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `nbytes` bytes from `offset` (from the start of `file`), row-major, of safetensors type `dtype`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of a local file by name. Raises `ModelFileError` for a missing, truncated or foreign file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelFileError(f"{file}: truncated or not a safetensors file ({size} bytes)")
            header = stream.read(length)
    except OSError as error:
        raise ModelFileError(f"{file}: {error.strerror}") from error
    entries = parse_header(header, file)
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if end > size:
        raise ModelFileError(f"{file}: truncated: {size} bytes, but its header promises {end}")
    return entries


def parse_header(header: bytes, file: Path) -> dict[str, TensorEntry]:
    """The tensors that header JSON describes; `file` is where they are or will be. Raises `ModelFileError`."""
    try:
        table = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{file}: safetensors header is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise ModelFileError(f"{file}: safetensors header is not an object")
    start = 8 + len(header)
    return {name: _entry(name, value, file, start) for name, value in table.items() if name != "__metadata__"}


def _entry(name: str, value: Any, file: Path, start: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        item = DTYPE_BYTES[dtype]
        sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and end - begin == math.prod(shape) * item
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{file}: tensor {name}: bad header entry ({error!r})") from error
    if not sound:
        raise ModelFileError(f"{file}: tensor {name}: shape {list(shape)} of {dtype} does not fill {end - begin} bytes")
    return TensorEntry(name, dtype, shape, file, start + begin, end - begin)
