"""The interface of a wire codec, and the three that there are.

Packing runs where the tensor is: C++ on the CPU, on CUDA Triton for int8, and else the reference. A decoded tensor is
on the CPU. A token whose numbers stopped being finite stays so through every codec, so that the tail can end
that row alone.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from deserve_kernels.attention import has_triton
from deserve_kernels.codecs import native, reference
from deserve_kernels.codecs.layout import MAX_HIDDEN, int8_bytes
from deserve_kernels.errors import ArgumentError, PayloadError

__all__ = ["CODECS", "Codec"]

assert sys.byteorder == "little", "frames are little-endian"

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Codec(Protocol):
    """One way of writing hidden states as bytes. A token's bytes do not depend on the tokens around it."""

    @property
    def name(self) -> str: ...

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back every bit."""

    def bytes_per_token(self, hidden: int, dtype: torch.dtype) -> int:
        """Length of a token's `hidden` values computed in `dtype`."""

    def encode(self, hidden: Tensor) -> memoryview:
        """The bytes of `hidden` [tokens, hidden] in fp32, bf16 or fp16 on any device.

        They may be the tensor's own memory. On CUDA the work is queued on the current stream, and waited for. Raises
        `ArgumentError` for another shape or dtype.
        """

    def decode(self, buffer: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """A tensor `shape` [tokens, hidden] in `dtype` on the CPU, which may be the memory of `buffer`.

        Raises `PayloadError` where `buffer` has another length, before it allocates, or holds what no encoder writes.
        """


class _Codec(ABC):
    name = ""
    lossless = False

    @abstractmethod
    def bytes_per_token(self, hidden: int, dtype: torch.dtype) -> int: ...

    def _checked(self, hidden: Tensor) -> Tensor:
        if hidden.ndim != 2 or hidden.dtype not in FLOATS or hidden.shape[1] > MAX_HIDDEN:
            raise ArgumentError(
                f"hidden: {hidden.dtype} {tuple(hidden.shape)} where [tokens, at most {MAX_HIDDEN}] in float32, "
                "bfloat16 or float16 is expected"
            )
        return hidden.detach()

    def _records(self, buffer: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The buffer as uint8 [tokens, bytes a token], its own memory where that may be written to."""
        tokens, hidden = shape
        if tokens < 0 or not 0 <= hidden <= MAX_HIDDEN:
            raise PayloadError(f"{self.name}: no tensor has the shape {shape}")
        length = self.bytes_per_token(hidden, dtype)
        if buffer.nbytes != tokens * length:
            raise PayloadError(
                f"{self.name}: {buffer.nbytes} bytes, expected {tokens * length} for {tokens} tokens of {hidden}"
            )
        return _uint8(buffer).view(tokens, length)


class _Raw(_Codec):
    name = "raw"
    lossless = True

    def bytes_per_token(self, hidden: int, dtype: torch.dtype) -> int:
        return hidden * dtype.itemsize

    def encode(self, hidden: Tensor) -> memoryview:
        return _bytes_of(self._checked(hidden))

    def decode(self, buffer: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        records = self._records(buffer, shape, dtype)
        if records.data_ptr() % dtype.itemsize:
            records = records.clone()
        return records.flatten().view(dtype).view(shape)


class _Bf16(_Codec):
    name = "bf16"

    def bytes_per_token(self, hidden: int, dtype: torch.dtype) -> int:
        return hidden * 2

    def encode(self, hidden: Tensor) -> memoryview:
        checked = self._checked(hidden)
        if checked.dtype is torch.bfloat16:
            return _bytes_of(checked)
        return _bytes_of(native.round_bf16(checked) if _compiled(checked) else reference.round_bf16(checked))

    def decode(self, buffer: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        records = self._records(buffer, shape, dtype)
        if records.data_ptr() % 2:
            records = records.clone()
        return reference.narrow(records.flatten().view(torch.bfloat16).view(shape), dtype)


class _Int8(_Codec):
    name = "int8"

    def bytes_per_token(self, hidden: int, dtype: torch.dtype) -> int:
        return int8_bytes(hidden)

    def encode(self, hidden: Tensor) -> memoryview:
        checked = self._checked(hidden)
        pack: Callable[[Tensor], Tensor] = reference.pack_int8
        if _compiled(checked):
            pack = native.pack_int8
        elif checked.device.type == "cuda" and has_triton():
            from deserve_kernels.codecs import triton_int8

            pack = triton_int8.pack_int8
        return _bytes_of(pack(checked))

    def decode(self, buffer: memoryview, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        records = self._records(buffer, shape, dtype)
        unpack = native.unpack_int8 if _compiled(records) else reference.unpack_int8
        return reference.narrow(unpack(records, shape[1]), dtype)


def _compiled(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and native.available()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on any device; its own memory where it is contiguous on the CPU."""
    tensor = _fetched(tensor) if tensor.device.type == "cuda" else tensor.to("cpu")
    return tensor.contiguous().view(torch.uint8).flatten().numpy().data


def _fetched(tensor: Tensor) -> Tensor:
    """A CUDA tensor in pinned memory of its own, which torch gives out again once nobody holds the bytes any more."""
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    # Blocking: the thread sleeps. Of the stream's own device, which need not be the thread's first.
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensor.device))
    copied.synchronize()
    return there


def _uint8(buffer: memoryview) -> Tensor:
    flat = buffer.cast("B") if buffer.nbytes else memoryview(bytearray(0))
    if not flat.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    # torch has no read-only tensors: memory that must not be written to is copied, once.
    return torch.frombuffer(bytearray(flat) if flat.readonly else flat, dtype=torch.uint8)


CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in (_Raw(), _Bf16(), _Int8())})
