"""Hidden states of a step as the payload of its frame: one codec for each segment, back to back, in packed order.

What a neighbour declares is checked before anything is allocated for it. A value that is not finite is no error here:
it belongs to one row, and the tail ends that row alone.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from deserve_kernels.codecs import CODECS
from deserve_kernels.errors import PayloadError as CodecError
from deserve_network.ring_messages import Segment, Step
from deserve_node.errors import NodeError
from deserve_node.proof.passage import Run
from deserve_node.tensors import DTYPES

__all__ = [
    "PayloadError",
    "pack_payload",
    "packed_runs",
    "payload_bytes",
    "plain_outputs",
    "received_runs",
    "segment_fault",
    "unpack_payload",
]


class PayloadError(NodeError):
    """A frame's payload does not have the size that its header declares, or holds what its codec never writes."""


async def pack_payload(hidden: torch.Tensor, segments: Sequence[Segment]) -> list[memoryview]:
    """The buffers of `hidden` [tokens, hidden] on any device, one for each segment. Its step has ended.

    Raw segments of a CPU tensor are its own memory; on another device all are packed there and then fetched. Whatever
    takes time is done off the event loop.
    """
    if hidden.device.type == "cpu" and all(CODECS[segment.codec].lossless for segment in segments):
        return _pack(hidden, segments)
    return await asyncio.to_thread(_pack, hidden, segments)


async def unpack_payload(payload: memoryview, step: Step) -> torch.Tensor:
    """The hidden states [tokens, hidden] of a step whose segments are sound (`segment_fault`), on the CPU.

    They are the payload's own memory where it is one raw segment that may be written to. Raises `PayloadError`.
    """
    expected = payload_bytes(step)
    if payload.nbytes != expected:
        raise PayloadError(f"step {step.step}: payload of {payload.nbytes} bytes, expected {expected}")
    if all(CODECS[segment.codec].lossless for segment in step.segments):
        return _unpack(payload, step)
    return await asyncio.to_thread(_unpack, payload, step)


def received_runs(payload: memoryview, step: Step) -> list[Run]:
    """The payload of a sound step, segment by segment."""
    dtype = DTYPES[step.dtype]
    return [Run(segment.codec, part.nbytes // segment.tokens, part) for segment, part in _parts(payload, step, dtype)]


def packed_runs(packed: Sequence[memoryview], segments: Sequence[Segment]) -> list[Run]:
    """What `pack_payload` returned for `segments`."""
    return [
        Run(segment.codec, part.nbytes // segment.tokens, part) for segment, part in zip(segments, packed, strict=True)
    ]


async def plain_outputs(hidden: torch.Tensor, segments: Sequence[Segment]) -> memoryview | None:
    """The bytes of `hidden` as it was computed; None where packing by `segments` gives the very same."""
    if all(CODECS[segment.codec].lossless for segment in segments):
        return None
    (plain,) = await pack_payload(hidden, (Segment("raw", len(hidden)),))
    return plain


def payload_bytes(step: Step) -> int:
    """What the step's payload takes, by its header alone."""
    dtype = DTYPES[step.dtype]
    return sum(part.tokens * CODECS[part.codec].bytes_per_token(step.hidden, dtype) for part in step.segments)


def segment_fault(step: Step) -> str | None:
    """What is wrong with the segments that a step declares; None where nothing is."""
    for segment in step.segments:
        if segment.codec not in CODECS:
            return f"codec {segment.codec!r}, which is none of {', '.join(CODECS)}"
        if segment.tokens < 1:
            return f"a segment of {segment.tokens} tokens"
    declared = sum(segment.tokens for segment in step.segments)
    return None if declared == step.tokens else f"segments of {declared} tokens for {step.tokens}"


def _pack(hidden: torch.Tensor, segments: Sequence[Segment]) -> list[memoryview]:
    parts = torch.split(hidden, [segment.tokens for segment in segments])
    with _beside_steps(hidden.device):
        return [CODECS[segment.codec].encode(part) for segment, part in zip(segments, parts, strict=True)]


def _beside_steps(device: torch.device) -> AbstractContextManager[object]:
    """What is done with a CUDA tensor meanwhile does not queue up behind the step that computes."""
    return torch.cuda.stream(_packing_stream(device)) if device.type == "cuda" else nullcontext()


@functools.cache
def _packing_stream(device: torch.device) -> torch.cuda.Stream:
    # First in line: a kernel of microseconds would wait for as many thread blocks as a step has queued.
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def _unpack(payload: memoryview, step: Step) -> torch.Tensor:
    dtype = DTYPES[step.dtype]
    try:
        if len(step.segments) == 1:
            return CODECS[step.segments[0].codec].decode(payload, (step.tokens, step.hidden), dtype)
        hidden = torch.empty(step.tokens, step.hidden, dtype=dtype)
        first = 0
        for segment, part in _parts(payload, step, dtype):
            shape = (segment.tokens, step.hidden)
            hidden[first : first + segment.tokens] = CODECS[segment.codec].decode(part, shape, dtype)
            first += segment.tokens
        return hidden
    except CodecError as error:
        raise PayloadError(f"step {step.step}: {error}") from error


def _parts(payload: memoryview, step: Step, dtype: torch.dtype) -> Iterator[tuple[Segment, memoryview]]:
    begin = 0
    for segment in step.segments:
        end = begin + segment.tokens * CODECS[segment.codec].bytes_per_token(step.hidden, dtype)
        yield segment, payload[begin:end]
        begin = end
