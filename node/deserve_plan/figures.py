"""What was measured of a ring, or is assumed of it on paper: stages, memories, links, and the work to come. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_plan.cost import StageCost

__all__ = ["MEASURED_FRAME", "FrameCost", "LinkFigures", "RingFigures", "StageFigures", "StageMemory", "Workload"]


@dataclass(frozen=True, slots=True)
class StageMemory:
    """KV of a stage: pages of `page_tokens` tokens and `page_bytes` bytes (over all its layers) on the device, further
    ones in host memory, and how fast pages travel between the two. No host pages: nothing is swapped."""

    page_tokens: int
    device_pages: int
    page_bytes: int = 0
    host_pages: int = 0
    copy_in_bytes_per_s: float = 0.0
    copy_out_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FrameCost:
    """Processor time of a stage for a step beside computing it: wake-ups, messages of its rows, encryption."""

    step_s: float = 0.0
    row_s: float = 0.0
    byte_s: float = 0.0
    """Of hidden states, at both ends together."""


MEASURED_FRAME = FrameCost(1.3e-3, 20e-6, 11e-9)
"""On TLS sockets over loopback, four stages and the coordinator on two cores of an AMD EPYC, all that they spend shared
out among the stages."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage. `machine` is equal for stages that share `cores` processor cores, of which each computes with
    `threads`; `occupies_cores` is False where the computing is done elsewhere (a GPU, a timed stage)."""

    cost: StageCost
    memory: StageMemory
    machine: str = ""
    cores: int = 1
    threads: int = 1
    frame: FrameCost = FrameCost()
    occupies_cores: bool = True


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One direction of a link: one-way latency, how much it varies (95th percentile less the least), bandwidth.

    `bytes_per_s` 0: no bound was found; `bandwidth_spread` is the relative spread of the bandwidth samples.
    """

    latency_s: float = 0.0
    latency_spread_s: float = 0.0
    bytes_per_s: float = 0.0
    bandwidth_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class RingFigures:
    """Stages in order, and `links[i]` from stage i to the next; the last one goes from the tail back to the head.

    `hidden` values of `value_bytes` bytes are what a token takes on a link before a codec packs them.
    """

    stages: tuple[StageFigures, ...]
    links: tuple[LinkFigures, ...]
    hidden: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Means over the rows to come: tokens of a prompt, tokens generated. `rows` in all; 0 is no end of them.

    `more_to_come` is False for the last rows of a batch: no prompts follow, and steps hold decodes alone.
    """

    prompt_tokens: float
    new_tokens: float
    rows: int = 0
    more_to_come: bool = True
