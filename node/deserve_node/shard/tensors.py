"""Tensors of a checkpoint that are read only when transformers asks for them, and straight into place.

Not memory-mapped on purpose: mapped pages of the file and their converted copy would both count as this process's
memory, and loading bfloat16 as float32 would need 1.5 times the stage's tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from io import FileIO
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from deserve_models.safetensors_header import TensorEntry
from deserve_node.errors import ShardError

__all__ = ["LazyTensor", "lazy_state_dict"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PIECE_ELEMENTS = 1 << 20


class LazyTensor:
    """Reads itself when indexed with `...`, which is how transformers materialises a slice of a safetensors file."""

    __slots__ = ("_dtype", "_entry", "_target", "_through")

    def __init__(self, entry: TensorEntry, dtype: torch.dtype | None, through: torch.dtype | None = None) -> None:
        if entry.dtype not in _DTYPES:
            raise ShardError(
                f"{entry.file}: tensor {entry.name}: {entry.dtype} is not supported; use a float checkpoint"
            )
        self._entry = entry
        self._dtype = _DTYPES[entry.dtype]
        self._target = dtype if dtype is not None and self._dtype.is_floating_point else self._dtype
        self._through = through if dtype is not None and self._dtype.is_floating_point else None

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._entry.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def __getitem__(self, key: EllipsisType) -> Tensor:
        """The whole tensor on the CPU, converted while it is read. Raises `ShardError` for a file cut short."""
        if key is not ...:
            raise TypeError("a LazyTensor is read as a whole")
        entry = self._entry
        target = torch.empty(entry.elements, dtype=self._target)
        with entry.file.open("rb", buffering=0) as stream:
            stream.seek(entry.offset)
            if self._target == self._dtype and self._through is None:
                self._fill(stream, target)
            else:
                piece = torch.empty(min(_PIECE_ELEMENTS, entry.elements), dtype=self._dtype)
                for start in range(0, entry.elements, _PIECE_ELEMENTS):
                    part = piece[: min(_PIECE_ELEMENTS, entry.elements - start)]
                    self._fill(stream, part)
                    target[start : start + len(part)] = part if self._through is None else part.to(self._through)
        return target.view(entry.shape)

    def _fill(self, stream: FileIO, target: Tensor) -> None:
        array: Any = target.view(torch.uint8).numpy()
        view = memoryview(array)
        while view:
            count = stream.readinto(view)
            if not count:
                raise ShardError(
                    f"{self._entry.file}: tensor {self._entry.name}: the file ends {len(view)} bytes early"
                )
            view = view[count:]


def lazy_state_dict(
    entries: Mapping[str, TensorEntry],
    dtype: torch.dtype,
    as_stored: Collection[str] = (),
    *,
    through: torch.dtype | None = None,
) -> dict[str, LazyTensor]:
    """A state dict for `from_pretrained` that costs nothing until it is read.

    Floats become `dtype` while they are read, rounded to `through` first where that is given, except where the name
    contains one of `as_stored`: those keep the file's type, for transformers to decide.
    """
    return {
        name: LazyTensor(entry, None if any(part in name for part in as_stored) else dtype, through)
        for name, entry in entries.items()
    }
