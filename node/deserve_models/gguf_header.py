"""The header of a GGUF file: metadata names and where each tensor lies, checked against the file's real size.

Read before anything else is done with the file, so that a truncated or foreign one is refused at once and by name.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from deserve_models.errors import ModelFileError

__all__ = ["GgufHeader", "GgufTensor", "read_gguf_header"]

_WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_MAX_TENSORS = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`nbytes` bytes from `offset` of the file; `shape` outermost dimension first, `kind` a ggml type number."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    architecture: str
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(file: Path) -> GgufHeader:
    """Raises `ModelFileError` where `file` is not GGUF, is truncated, or uses a tensor type unknown to us."""
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelFileError(f"{file}: not a GGUF file: it does not begin with GGUF")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data).header()
    except OSError as error:
        raise ModelFileError(f"{file}: {error.strerror}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(f"{file}: damaged header: {error}") from error


class _Reader:
    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self._file = file
        self._data = data
        self._at = 4

    def header(self) -> GgufHeader:
        version = self._number("<I")
        if version not in (2, 3):
            raise ModelFileError(f"{self._file}: GGUF version {version}; only 2 and 3 are supported")
        num_tensors, num_values = self._number("<Q"), self._number("<Q")
        if num_tensors > _MAX_TENSORS:
            raise ModelFileError(f"{self._file}: damaged header: {num_tensors} tensors")
        alignment, architecture = 32, ""
        for _ in range(num_values):
            key, kind = self._string(), self._number("<I")
            if key == "general.alignment" and kind == _UINT32:
                alignment = self._number("<I")
            elif key == "general.architecture" and kind == _STRING:
                architecture = self._string()
            else:
                self._skip(kind)
        if not architecture or alignment < 1:
            raise ModelFileError(f"{self._file}: no general.architecture; this is not a model")
        places = [self._tensor() for _ in range(num_tensors)]
        start = -(-self._at // alignment) * alignment
        return GgufHeader(architecture, tuple(self._checked(start, *place) for place in places))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._number("<I")
        if not 1 <= dimensions <= 8:
            raise ModelFileError(f"{self._file}: tensor {name}: {dimensions} dimensions")
        shape = tuple(reversed([self._number("<Q") for _ in range(dimensions)]))
        return name, shape, self._number("<I"), self._number("<Q")

    def _checked(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise ModelFileError(f"{self._file}: tensor {name}: unknown ggml type {kind}") from error
        if shape[-1] % block:
            raise ModelFileError(f"{self._file}: tensor {name}: rows of {shape[-1]} are not whole blocks of {block}")
        nbytes = math.prod(shape) // block * block_bytes
        if start + offset + nbytes > len(self._data):
            raise ModelFileError(
                f"{self._file}: truncated: tensor {name} ends at byte {start + offset + nbytes}, "
                f"the file at {len(self._data)}"
            )
        return GgufTensor(name, shape, kind, start + offset, nbytes)

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ModelFileError(f"{self._file}: truncated inside its header, at byte {len(self._data)}")
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode()

    def _skip(self, kind: int) -> None:
        if kind in _WIDTH:
            self._take(_WIDTH[kind])
        elif kind == _STRING:
            self._take(self._number("<Q"))
        elif kind == _ARRAY:
            item, count = self._number("<I"), self._number("<Q")
            if item in _WIDTH:
                self._take(_WIDTH[item] * count)
            else:
                for _ in range(count):
                    self._skip(item)
        else:
            raise ModelFileError(f"{self._file}: damaged header: metadata of type {kind}")
