"""What travels between the stages of one ring, stream protocol `/deserve/ring/1`.

A ring has one link from each stage to the next, which carries `Step` frames with hidden states, and one link
between head and tail, which carries `Admit` forwards and `Sampled` back. Middle stages therefore never see a
token. Every message names ring and epoch; a message of another epoch is refused. Where work is paid, `Step` says what
rows are booked under and `ChunkClosed` what each stage commits to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.schema import Max, Min, Table

__all__ = [
    "CODEC_NAMES",
    "RING",
    "RING_PROTOCOL",
    "Admit",
    "BookedRoots",
    "Chunk",
    "ChunkClosed",
    "FailedSequence",
    "RowLabel",
    "Sampled",
    "SampledToken",
    "Sampling",
    "Segment",
    "StageTiming",
    "Step",
    "TokenLogprob",
    "Tune",
]

RING_PROTOCOL = "/deserve/ring/1"

CODEC_NAMES = ("raw", "bf16", "int8")
"""Wire codecs (`deserve_kernels.codecs`), the one that changes least first."""
MAX_CONTEXT = 1 << 20
MAX_CHUNKS = 1 << 15
"""Of a step; rows that a head may have in flight, and those it computes ahead, can all leave before one."""
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tail draws the tokens of one row; -1 and empty mean "off". See `deserve_node.sampler`."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Annotated[tuple[TokenBias, ...], Max(1024)] = ()
    seed: int = 0
    logprobs: int = -1
    """-1: none; n >= 0: the drawn token's logprob and those of the n most likely."""
    prompt_logprobs: int = -1
    """The same for every prompt token but the first (`echo`)."""
    min_tokens: int = 0
    stop_token_ids: Annotated[tuple[int, ...], Max(64)] = ()
    """End-of-sequence ids, suppressed until `min_tokens` are generated."""


@dataclass(frozen=True, slots=True)
class TokenBias:
    token: int
    bias: float


@dataclass(frozen=True, slots=True)
class Admit:
    """Head to tail, before the first chunk of a sequence: what the sampler must know about it."""

    ring: str
    epoch: int
    sequence: int
    """Never reused within a ring's epoch."""
    sampling: Sampling
    prompt: Annotated[tuple[int, ...], Max(MAX_CONTEXT)]
    generated: Annotated[tuple[int, ...], Max(MAX_CONTEXT)] = ()
    """Tokens already drawn in an earlier life of the row (preemption, repair): replayed, not drawn again."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` consecutive tokens of a sequence from position `start`, in packed order within the step."""

    sequence: int
    start: int
    count: int
    wanted: int
    """How many of the last positions need logits: 0 inside a prompt, 1 to draw a token, `count` to score."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of a step, in packed order, whose hidden states are packed by one codec."""

    codec: Annotated[str, Max(32)]
    tokens: int


@dataclass(frozen=True, slots=True)
class RowLabel:
    """What the work on a sequence is booked under: told with its first chunk, and remembered until it is released."""

    sequence: int
    job_id: Annotated[bytes, Min(32), Max(32)]
    row: int
    """Row key in the coordinator's store."""
    lease: Annotated[int, Min(0)]
    attempt: Annotated[int, Min(0)]
    """How often the row was admitted before under that lease."""
    prefill: Annotated[int, Min(1), Max(MAX_CONTEXT)]
    """Tokens that it has when it is admitted; those at later positions are drawn in this attempt."""


@dataclass(frozen=True, slots=True)
class StageTiming:
    """What one stage spent on a step, seconds: computing, and waiting before that for KV pages to be copied in. `rtt_s`
    is the shortest of the last round trips over the link that the step leaves on; 0: not known."""

    compute_s: float
    swap_s: float = 0.0
    rtt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One trip of one microbatch. Its payload is the hidden states [tokens, hidden], computed in `dtype` and packed
    segment by segment, row-major."""

    ring: str
    epoch: int
    step: int
    microbatch: int
    released: Annotated[tuple[int, ...], Max(MAX_CHUNKS)]
    """Sequences whose pages are freed before this step."""
    chunks: Annotated[tuple[Chunk, ...], Max(MAX_CHUNKS)]
    segments: Annotated[tuple[Segment, ...], Max(16)]
    dtype: Annotated[str, Max(16)]
    tokens: int
    hidden: int
    timings: Annotated[tuple[StageTiming, ...], Max(256)]
    """Of the stages that the step has passed, in order: the head plans with them."""
    labels: Annotated[tuple[RowLabel, ...], Max(MAX_CHUNKS)] = ()
    """Of the sequences that begin with this step and that somebody pays for."""


@dataclass(frozen=True, slots=True)
class Tune:
    """Head to every stage, passed on in its place between steps: from the next step on, this plan holds."""

    ring: str
    epoch: int
    microbatches: int
    swap_pages: Annotated[tuple[int, ...], Max(256)]
    """Of each stage: pages of a microbatch that leave the device while others compute; 0: nothing is swapped."""
    prefetch_depth: int
    coalesce: int


@dataclass(frozen=True, slots=True)
class BookedRoots:
    """What a stage commits to of all rows that one (job, lease, attempt) books; see `deserve_node.proof.commitment`."""

    job_id: Annotated[bytes, Min(32), Max(32)]
    lease: Annotated[int, Min(0)]
    attempt: Annotated[int, Min(0)]
    wire_root: Annotated[bytes, Min(32), Max(32)]
    """Over the bytes that left the stage."""
    print_root: Annotated[bytes, Min(32), Max(32)]
    """Over the fingerprints of its outputs; zero at the tail."""


@dataclass(frozen=True, slots=True)
class ChunkClosed:
    """Every stage to the next, the tail to the head: no step of this chunk comes any more, and this was in it. It
    follows the chunk's last step, later ones may be between."""

    ring: str
    epoch: int
    chunk: Annotated[int, Min(0)]
    """Step numbers from 64 times this one on, 64 at most."""
    booked: Annotated[tuple[BookedRoots, ...], Max(MAX_CHUNKS)]
    """In the order of (job, lease, attempt)."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A drawn token, or (inside a prompt that is scored) a given one."""

    sequence: int
    position: int
    """Of this token in the sequence: the first generated token is at len(prompt)."""
    token: int
    logprob: float | None = None
    top: Annotated[tuple[TokenLogprob, ...], Max(MAX_TOP_LOGPROBS)] = ()


@dataclass(frozen=True, slots=True)
class FailedSequence:
    """A row that cannot go on; the others of its step are not touched."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tail to head: what step `step` produced."""

    ring: str
    epoch: int
    step: int
    microbatch: int
    drawn: Annotated[tuple[SampledToken, ...], Max(MAX_CHUNKS)]
    scored: Annotated[tuple[SampledToken, ...], Max(1 << 16)] = ()
    failed: Annotated[tuple[FailedSequence, ...], Max(MAX_CHUNKS)] = ()
    timings: Annotated[tuple[StageTiming, ...], Max(256)] = ()
    """Of every stage, the tail's last."""


RING = Table("ring", {1: Step, 2: Admit, 3: Sampled, 4: Tune, 5: ChunkClosed}, max_bytes=8 << 20)
